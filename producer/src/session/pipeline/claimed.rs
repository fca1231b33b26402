//! Checks the claims of a committed transaction against those of other sources.

use oplog_relay_core::position::Position;
use tokio::runtime::Handle;

use super::PublishLoop;
use crate::encode::chunk::Chunk;
use crate::encode::write_state;
use crate::error::ProducerError;
use crate::prepare::claims::Claims;
use crate::session::error::SessionError;

/// The claims of other sources, for a thread that may block.
#[derive(Debug)]
pub struct OtherClaims {
    /// Reader of the claims.
    pub claims: Claims,
    /// Handle of the runtime that the reads run on.
    pub runtime: Handle,
}

/// The claims that the open transaction makes, and the reader of those of other sources.
#[derive(Debug, Default)]
pub(super) struct ClaimCheck {
    /// Topics that the open transaction claims.
    claimed: Vec<String>,
    others: Option<OtherClaims>,
}

impl ClaimCheck {
    /// Adds the claims of a chunk that was sent.
    pub(super) fn take(&mut self, chunk: &Chunk) {
        let claimed = chunk
            .new_topics
            .iter()
            .filter(|topic| topic.is_claimed_here);
        self.claimed.extend(claimed.map(|topic| topic.name.clone()));
    }
}

impl PublishLoop<'_> {
    /// Sets the reader of the claims of other sources, against which claims are checked.
    #[must_use]
    pub fn among(mut self, others: OtherClaims) -> Self {
        self.claims.others = Some(others);
        self
    }

    /// Stops after a commit if another source has claimed one of the topics that the commit claims.
    /// Both sources committed at about the same time, and at least the later one finds the other's
    /// claim here. It withdraws its own contested claims, so that the other source can continue
    /// after a restart.
    pub(crate) fn check_claims(&mut self, position: Position) -> Result<(), ProducerError> {
        let claimed = std::mem::take(&mut self.claims.claimed);
        let Some(others) = self.claims.others.as_ref().filter(|_| !claimed.is_empty()) else {
            return Ok(());
        };
        let contested = others.claims.contested(&claimed);
        let contested = others.runtime.block_on(contested)?;
        let Some((topic, owner)) = contested.first_key_value() else {
            return Ok(());
        };
        let mut withdrawn = Chunk::default();
        for topic in contested.keys() {
            let key = format!("topic/{topic}");
            write_state(&key, &[], 0, &mut withdrawn);
        }
        self.publisher.send(&withdrawn)?;
        self.publisher.commit(&self.progress.record(position))?;
        Err(SessionError::TopicContested {
            topic: topic.clone(),
            owner: owner.clone(),
            position,
        }
        .into())
    }
}
