//! Handles: which blocks to look into for the addresses of one pod.
//!
//! In: a handle's id and a block. Out: the handle, written. Never: an address in a block that its handle does not name:
//! the handle is written before the block when an address is given out, and after it when it is taken back.

use ipnet::IpNet;

use super::error::IpamError;
use super::retry::Retry;
use super::store::{Store, StoreError};
use crate::crd::{IpamHandle, IpamHandleSpec, names};

/// A handle in the store, as it was last seen.
#[derive(Clone, Debug)]
pub struct Handle<S> {
    store: S,
    id: String,
    stored: Option<IpamHandle>,
    made_here: bool,
}

/// What came of promising a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// The handle names the block now, and did not before.
    Made,
    /// It named the block already.
    Stood,
    /// Somebody made the handle of which this process did not know. It was read, and nothing was written.
    Surprise,
}

// === impl Handle ===

impl<S: Store> Handle<S> {
    /// A handle that is expected not to exist yet.
    pub fn new(store: S, id: &str) -> Self {
        Self { store, id: id.to_owned(), stored: None, made_here: false }
    }

    /// A handle as it is in the store.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn read(store: S, id: &str) -> Result<Self, IpamError> {
        let mut handle = Self::new(store, id);
        handle.refresh().await?;
        Ok(handle)
    }

    /// The id as whoever made the handle wrote it; the name of the object is the same in lower case.
    pub fn id(&self) -> &str {
        self.stored.as_ref().map_or(&self.id, |handle| &handle.spec.handle_id)
    }

    /// Whether it is in the store.
    pub fn exists(&self) -> bool {
        self.stored.is_some()
    }

    /// Whether it was this value that made it, so that nobody has used it before.
    pub fn made_here(&self) -> bool {
        self.made_here
    }

    /// The blocks that it names.
    pub fn blocks(&self) -> Vec<IpNet> {
        let blocks = self.stored.iter().flat_map(|handle| handle.spec.block.keys());
        blocks.filter_map(|block| block.parse().ok()).collect()
    }

    /// Reads it again.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn refresh(&mut self) -> Result<(), IpamError> {
        let mut retry = Retry::default();
        loop {
            match self.try_read().await {
                Ok(stored) => {
                    self.stored = stored;
                    return Ok(());
                }
                Err(error) => retry.after(error).await?,
            }
        }
    }

    async fn try_read(&self) -> Result<Option<IpamHandle>, StoreError> {
        let Some(handle) = self.store.get::<IpamHandle>(&names::handle(&self.id)).await? else { return Ok(None) };
        if handle.spec.deleted {
            self.store.delete(&handle).await?;
            return Ok(None);
        }
        Ok(Some(handle))
    }

    /// Writes the handle with one address in `block`, and without `instead_of`.
    ///
    /// # Errors
    /// It cannot be written.
    pub async fn promise(&mut self, block: IpNet, instead_of: Option<IpNet>) -> Result<Promise, IpamError> {
        let mut retry = Retry::default();
        // After a write that may have happened, what is found is this process's own.
        let mut lost = false;
        loop {
            let written = match &self.stored {
                Some(handle) => {
                    let mut handle = handle.clone();
                    instead_of.map(|old| handle.spec.block.remove(&old.to_string()));
                    if instead_of.is_none() && handle.spec.block.contains_key(&block.to_string()) {
                        return Ok(Promise::Stood);
                    }
                    handle.spec.block.entry(block.to_string()).or_insert(1);
                    self.store.update(&handle).await
                }
                None => self.store.create(&self.first(block)).await,
            };
            match written {
                Ok(handle) => {
                    self.made_here |= !self.exists();
                    self.stored = Some(handle);
                    return Ok(Promise::Made);
                }
                Err(error) => {
                    let surprise = matches!(error, StoreError::Exists(_)) && !lost;
                    lost |= matches!(error, StoreError::Unreachable { .. });
                    retry.after(error).await?;
                    self.refresh().await?;
                    if surprise && self.exists() {
                        return Ok(Promise::Surprise);
                    }
                }
            }
        }
    }

    fn first(&self, block: IpNet) -> IpamHandle {
        let spec = IpamHandleSpec {
            handle_id: self.id.clone(),
            block: [(block.to_string(), 1)].into(),
            ..IpamHandleSpec::default()
        };
        IpamHandle::new(&names::handle(&self.id), spec)
    }

    /// Counts `taken_back` addresses less in `block`; a handle that names no block any more goes.
    ///
    /// # Errors
    /// It cannot be written, or nobody knows whether it was. To count twice would be to promise too little.
    pub async fn withdraw(&mut self, block: IpNet, taken_back: usize) -> Result<(), IpamError> {
        let mut retry = Retry::default();
        loop {
            let Some(mut handle) = self.stored.clone() else { return Ok(()) };
            let key = block.to_string();
            let left = handle.spec.block.get(&key).map_or(0, |count| count.saturating_sub(taken_back));
            if left == 0 {
                handle.spec.block.remove(&key);
            } else {
                handle.spec.block.insert(key, left);
            }
            let written = if handle.spec.block.is_empty() {
                self.store.delete(&handle).await.map(|()| None)
            } else {
                self.store.update(&handle).await.map(Some)
            };
            match written {
                Ok(stored) => {
                    self.stored = stored;
                    return Ok(());
                }
                Err(lost @ StoreError::Unreachable { .. }) => return Err(lost.into()),
                Err(error) => {
                    retry.after(error).await?;
                    self.refresh().await?;
                }
            }
        }
    }

    /// Deletes it if it is as it was last seen. Answers whether it is gone; if not, it was read again.
    ///
    /// # Errors
    /// It can be neither deleted nor read.
    pub async fn delete(&mut self) -> Result<bool, IpamError> {
        let Some(handle) = &self.stored else { return Ok(true) };
        match self.store.delete(handle).await {
            Ok(()) => {
                self.stored = None;
                Ok(true)
            }
            Err(StoreError::Refused { what, why }) => Err(StoreError::Refused { what, why }.into()),
            Err(_) => {
                self.refresh().await?;
                Ok(!self.exists())
            }
        }
    }
}
