//! Live tests: real programs with a known call structure and known shares, run under
//! `flame-graph cpu`; what it wrote is compared with the truth. They need root and the compilers
//! that they name; what is missing fails in CI (`CI=true`) and is a named skip elsewhere.

#[cfg(test)]
mod bounds;
#[cfg(test)]
mod calls;
#[cfg(test)]
mod changing;
#[cfg(test)]
mod command;
#[cfg(test)]
mod debuginfod;
#[cfg(test)]
mod depth;
#[cfg(test)]
mod dotnet;
#[cfg(test)]
mod ending;
#[cfg(test)]
mod engines;
#[cfg(test)]
mod errors;
#[cfg(test)]
mod filters;
#[cfg(test)]
mod inspectors;
#[cfg(test)]
mod kernel;
#[cfg(test)]
mod layouts;
#[cfg(test)]
mod off_cpu;
#[cfg(test)]
mod perf;
#[cfg(test)]
mod places;
#[cfg(test)]
mod python;
#[cfg(test)]
mod runtimes;
#[cfg(test)]
mod services;
#[cfg(test)]
mod signals;
#[cfg(test)]
mod support;
#[cfg(test)]
mod symbols;
#[cfg(test)]
mod waits;
#[cfg(test)]
mod wakers;
