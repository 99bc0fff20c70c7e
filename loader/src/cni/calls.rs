//! Which attachments plugins are calling about.
//!
//! In: who calls, and who wants an attachment for himself. Out: guards. Never: a wait for a plugin; what is called about is not to
//! be had alone.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use super::spec::AttachmentId;

/// All calls.
#[derive(Debug, Default)]
pub struct Calls {
    locks: Mutex<BTreeMap<AttachmentId, Weak<RwLock<()>>>>,
}

/// One call, until it is dropped. Several may be about one attachment.
#[derive(Debug)]
pub struct Call {
    about: AttachmentId,
    _shared: OwnedRwLockReadGuard<()>,
}

/// Nobody calls about the attachment until this is dropped: who wants to, waits.
#[derive(Debug)]
pub struct Alone {
    _exclusive: OwnedRwLockWriteGuard<()>,
}

// === impl Calls ===

impl Calls {
    /// Somebody calls about an attachment. Waits for who has it alone.
    pub async fn begin(&self, about: &AttachmentId) -> Call {
        let lock = self.lock(about);
        Call { about: about.clone(), _shared: lock.read_owned().await }
    }

    /// Whether anybody calls about an attachment, or has it alone.
    pub fn any(&self, about: &AttachmentId) -> bool {
        let locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.get(about).is_some_and(|lock| lock.strong_count() > 0)
    }

    /// The attachment, if nobody calls about it.
    pub fn alone(&self, about: &AttachmentId) -> Option<Alone> {
        self.lock(about).try_write_owned().ok().map(|guard| Alone { _exclusive: guard })
    }

    fn lock(&self, about: &AttachmentId) -> Arc<RwLock<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = locks.get(about).and_then(Weak::upgrade) {
            return lock;
        }
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::default();
        locks.insert(about.clone(), Arc::downgrade(&lock));
        lock
    }
}

// === impl Call ===

impl Call {
    /// Whether it is about this attachment.
    pub fn is_about(&self, attachment: &AttachmentId) -> bool {
        self.about == *attachment
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn several_may_call_and_one_may_have_it_alone() {
        let id = AttachmentId { container_id: "c1".to_owned(), ifname: "eth0".to_owned() };
        let calls = Calls::default();
        assert!(!calls.any(&id));
        let first = calls.begin(&id).await;
        let second = calls.begin(&id).await;
        drop(first);
        assert!(second.is_about(&id) && calls.any(&id));
        assert!(calls.alone(&id).is_none(), "somebody calls");
        drop(second);
        assert!(!calls.any(&id));
        let alone = calls.alone(&id).unwrap();
        assert!(calls.any(&id) && calls.alone(&id).is_none());
        let calling = calls.begin(&id);
        tokio::pin!(calling);
        assert!(futures::poll!(&mut calling).is_pending());
        drop(alone);
        calling.await;
    }
}
