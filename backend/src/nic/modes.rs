//! Orders about modes, for pairs that have a worker and for those that have none yet.

use std::sync::PoisonError;

use super::{Nic, PairState};
use crate::mode::{ModeError, Order, Setting};
use crate::worker::{self, MailboxError, Message, PairGauges, QueueId};

/// Why an order about a mode was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The device has no such pair.
    #[error("there is no {id}: {} has pairs 0 to {last}", id.device)]
    NoSuchPair {
        /// What was named.
        id: QueueId,
        /// The number of the last pair.
        last: u16,
    },
    /// There is no worker yet whose mode could end.
    #[error("{0} has no worker before a guest starts it: set a mode for good, or wait for the guest")]
    NotStarted(QueueId),
    /// The worker could not be started, or was given up.
    #[error("{0} has no worker any more: restart vnicd")]
    Failed(QueueId),
    /// The mode cannot be had.
    #[error("{id}: {source}")]
    Mode {
        /// The pair.
        id: QueueId,
        /// Why.
        source: ModeError,
    },
    /// The worker does not answer.
    #[error("{id}: {source}")]
    Worker {
        /// The pair.
        id: QueueId,
        /// Why.
        source: MailboxError,
    },
}

impl Nic {
    /// Orders a mode for a pair. One that has no worker yet begins in it.
    ///
    /// # Errors
    /// When there is no such pair, or the mode cannot be had; the pair is as before.
    pub fn order_mode(&self, id: QueueId, order: Order) -> Result<(), OrderError> {
        let at = usize::from(id.pair);
        let last = (self.pairs.len() as u16).saturating_sub(1);
        let state = self.pairs.get(at).ok_or(OrderError::NoSuchPair { id, last })?;
        let mailbox = match &mut *state.lock().unwrap_or_else(PoisonError::into_inner) {
            PairState::Idle(idle) => {
                let mode = match (order, idle.policy.mode) {
                    (Order::Set(mode, None), _) => mode.into(),
                    (Order::Set(_, Some(_)), _) => return Err(OrderError::NotStarted(id)),
                    (Order::Toggle, Setting::Polling) => Setting::Interrupt,
                    // What is governed begins in interrupt mode.
                    (Order::Toggle, Setting::Auto | Setting::Interrupt) => Setting::Polling,
                    (Order::Auto, _) => Setting::Auto,
                };
                idle.policy.mode = mode;
                self.gauges[at].show(&PairGauges::new(&idle.policy, worker::now()).read());
                return Ok(());
            }
            PairState::Running(worker) => worker.mailbox().clone(),
            PairState::Failed => return Err(OrderError::Failed(id)),
        };
        mailbox
            .ask(id, |answer| Message::Mode(order, answer))
            .map_err(|source| OrderError::Worker { id, source })?
            .map_err(|source| OrderError::Mode { id, source })
    }
}
