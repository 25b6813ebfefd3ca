//! Orders about modes, for pairs that have a worker and for those that have none yet.

use super::Lane;
use super::lane::LaneState;
use crate::mode::{ModeError, Order, Setting};
use crate::worker::{self, MailboxError, Message, PairGauges, QueueId};

/// Why an order about a mode was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// There is no worker yet whose mode could end.
    #[error("{0} has no worker before a guest starts it: set a mode for good, or wait for the guest")]
    NotStarted(QueueId),
    /// The worker could not be started, or was given up.
    #[error("{0} has no worker any more: restart vnicd")]
    Failed(QueueId),
    /// The mode cannot be had.
    #[error("{id}: {source}")]
    Mode {
        /// The lane.
        id: QueueId,
        /// Why.
        source: ModeError,
    },
    /// The worker does not answer.
    #[error("{id}: {source}")]
    Worker {
        /// The lane.
        id: QueueId,
        /// Why.
        source: MailboxError,
    },
}

impl Lane {
    /// Orders a mode. A lane that has no worker yet begins in it.
    ///
    /// # Errors
    /// When the mode cannot be had; the lane is as before.
    pub fn order_mode(&self, order: Order) -> Result<(), OrderError> {
        let id = self.id;
        let mailbox = match &mut *self.state() {
            LaneState::Idle(idle) => {
                idle.policy.mode = match (order, idle.policy.mode) {
                    (Order::Set(mode, None), _) => mode.into(),
                    (Order::Set(_, Some(_)), _) => return Err(OrderError::NotStarted(id)),
                    (Order::Toggle, Setting::Polling) => Setting::Interrupt,
                    // What is governed begins in interrupt mode.
                    (Order::Toggle, Setting::Auto | Setting::Interrupt) => Setting::Polling,
                    (Order::Auto, _) => Setting::Auto,
                };
                self.gauges.show(&PairGauges::new(&idle.policy, worker::now()).read());
                return Ok(());
            }
            LaneState::Running(worker, _) => worker.mailbox().clone(),
            LaneState::Failed => return Err(OrderError::Failed(id)),
        };
        mailbox
            .ask(id, |answer| Message::Mode(order, answer))
            .map_err(|source| OrderError::Worker { id, source })?
            .map_err(|source| OrderError::Mode { id, source })
    }
}
