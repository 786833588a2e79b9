//! Asking runtimes over the sockets that they open for that in a folder where anybody can write.
//!
//! * [`socket`] finds such a socket, makes sure whose it is, and connects.
//! * [`dotnet`] speaks .NET's diagnostics, whose messages are in [`wire`].
//! * [`java`] attaches to HotSpot.

pub mod dotnet;
pub mod java;
pub mod socket;
pub mod wire;
