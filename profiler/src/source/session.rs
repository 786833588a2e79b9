//! Steering a recording from outside: when it ends, and how far it is.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::watch;

/// A flag between threads that can be polled for. Setting it twice is setting it once.
#[derive(Debug)]
pub struct Wake(OwnedFd);

impl Wake {
    /// Not set.
    ///
    /// # Errors
    ///
    /// When there are no more descriptors.
    pub fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Sets it.
    pub fn set(&self) {
        // It fails only when it was set 2^64 times.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Clears it.
    pub fn clear(&self) {
        // It fails when it is clear already.
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A recording in progress, shared by the thread that records and those that steer it.
#[derive(Debug)]
pub struct Session {
    /// When the program began to set the recording up.
    pub start: Instant,
    stop: Wake,
    stopped: watch::Sender<bool>,
    samples: AtomicU64,
    lost: AtomicU64,
}

impl Session {
    /// Not recording yet.
    ///
    /// # Errors
    ///
    /// When there are no more descriptors.
    pub fn new(start: Instant) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            start,
            stop: Wake::new()?,
            stopped: watch::Sender::new(false),
            samples: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        }))
    }

    /// Ends the recording: what was collected is kept.
    pub fn stop(&self) {
        self.stopped.send_replace(true);
        self.stop.set();
    }

    /// Whether it is to end.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        *self.stopped.borrow()
    }

    /// Becomes readable when the recording is to end.
    #[must_use]
    pub fn stop_fd(&self) -> BorrowedFd<'_> {
        self.stop.as_fd()
    }

    /// Returns when the recording is to end; on any runtime, any number of times at once.
    pub async fn stopped(&self) {
        // It fails when the sender is gone, and `self` holds it.
        let _ = self.stopped.subscribe().wait_for(|stopped| *stopped).await;
    }

    /// Tells how far the recording is.
    pub fn report(&self, samples: u64, lost: u64) {
        self.samples.store(samples, Ordering::Relaxed);
        self.lost.store(lost, Ordering::Relaxed);
    }

    /// Samples taken and samples lost so far.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        (self.samples.load(Ordering::Relaxed), self.lost.load(Ordering::Relaxed))
    }
}
