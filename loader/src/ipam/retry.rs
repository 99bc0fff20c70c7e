//! How often and after how long something is tried again.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use super::error::IpamError;
use super::store::StoreError;

/// How often another's write may come first. Each time one of those who compete has come through, so that even with a
/// hundred of them everybody's turn comes.
const MAX_CONFLICTS: u32 = 100;
/// The longest wait after the first conflict; it doubles with each, up to [`CONFLICT_WAIT_MAX`].
const CONFLICT_WAIT: Duration = Duration::from_millis(4);
/// The longest wait after any conflict.
const CONFLICT_WAIT_MAX: Duration = Duration::from_millis(250);
/// How often the API server may fail to answer.
const MAX_LOSSES: u32 = 3;
/// The longest wait after the first time that it did; it doubles with each.
const LOSS_WAIT: Duration = Duration::from_millis(100);

/// What has gone wrong so far.
#[derive(Debug, Default)]
pub struct Retry {
    conflicts: u32,
    losses: u32,
}

// === impl Retry ===

impl Retry {
    /// Waits until it makes sense to try again.
    ///
    /// # Errors
    /// It makes none: the API server will not, or it was tried often enough.
    pub async fn after(&mut self, error: StoreError) -> Result<(), IpamError> {
        let longest = match &error {
            StoreError::Exists(what) | StoreError::Conflict(what) => {
                self.conflicts += 1;
                if self.conflicts > MAX_CONFLICTS {
                    return Err(IpamError::Contended { what: what.clone(), attempts: MAX_CONFLICTS });
                }
                doubled(CONFLICT_WAIT, self.conflicts - 1).min(CONFLICT_WAIT_MAX)
            }
            StoreError::Unreachable { .. } => {
                self.losses += 1;
                if self.losses >= MAX_LOSSES {
                    return Err(error.into());
                }
                doubled(LOSS_WAIT, self.losses - 1)
            }
            StoreError::Refused { .. } => return Err(error.into()),
        };
        tokio::time::sleep(part_of(longest)).await;
        Ok(())
    }
}

fn doubled(wait: Duration, times: u32) -> Duration {
    wait.saturating_mul(1_u32.checked_shl(times).unwrap_or(u32::MAX))
}

/// Between nothing and `longest`, so that those who met once do not meet again.
pub fn part_of(longest: Duration) -> Duration {
    let part = u32::try_from(random() % 1_000).unwrap_or_default();
    longest * part / 1_000
}

/// A number that nobody can foresee, and that no secret may depend on.
pub fn random() -> u64 {
    RandomState::new().hash_one(0_u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn retries_end() {
        let conflict = || StoreError::Conflict("IPAMBlock x".to_owned());
        let mut retry = Retry::default();
        for _ in 0..MAX_CONFLICTS {
            retry.after(conflict()).await.unwrap();
        }
        let error = retry.after(conflict()).await.unwrap_err();
        assert_eq!(error.to_string(), "IPAMBlock x 100 times in a row");

        let lost = || StoreError::Unreachable { what: "reading".to_owned(), why: "reset".to_owned() };
        let mut retry = Retry::default();
        retry.after(lost()).await.unwrap();
        retry.after(lost()).await.unwrap();
        assert!(retry.after(lost()).await.unwrap_err().is_transient());

        let refused = StoreError::Refused { what: "reading".to_owned(), why: "forbidden".to_owned() };
        assert!(!Retry::default().after(refused).await.unwrap_err().is_transient());
    }

    #[test]
    fn waits_are_spread_and_bounded() {
        let waits: std::collections::BTreeSet<_> = (0..64).map(|_| part_of(Duration::from_secs(1))).collect();
        assert!(waits.len() > 32 && waits.iter().all(|wait| *wait < Duration::from_secs(1)));
        assert_eq!(doubled(Duration::from_millis(1), 99), Duration::from_millis(1) * u32::MAX);
    }
}
