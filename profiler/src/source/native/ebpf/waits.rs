//! Timing waits: the programs at switches and for passes over all tasks, what they are told, and
//! the sums that they send.

use std::{fs::File, io::Read as _};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Array, MapData, RingBuf},
    programs::{BtfTracePoint, Iter, Program, ProgramError},
};
use profiler_ebpf::wire::Control;

use super::load::{LoadError, refused, take};
use crate::source::native::{
    Settings,
    drive::now,
    times::{Sums, wire},
};

/// The program at switches.
pub const SWITCH: &str = "switch_task";
/// The program at wakings.
const WAKE: &str = "wake_task";
/// The program for passes over all tasks.
const VISIT: &str = "visit_task";
/// Bytes of the ring buffer of sums.
const SUM_RING: u32 = 1 << 20;
/// The same where each waker has sums of its own.
const WAKER_RING: u32 = 1 << 22;
/// Bytes that may wait in the ring buffers for a pass to go on. One task adds 130 KB at the most.
const VISIT_BYTES: u32 = 512 << 10;
/// Stacks of waits that are remembered as sent.
const STACKS: u32 = 1 << 15;
/// The smallest ring buffer, for recordings that have no sums.
const NO_RING: u32 = 4096;

/// The programs' settings about waits.
pub struct WaitGlobals {
    wait_scratch: u32,
    visit_scratch: u32,
    wake_scratch: u32,
    wakers: u8,
    scratch: u32,
    min: u64,
    max: u64,
    timed: bool,
}

impl WaitGlobals {
    /// Those of a recording, with `cpus` possible CPUs.
    #[must_use]
    pub fn new(settings: &Settings, cpus: u32) -> Self {
        let waits = settings.waits.unwrap_or_default();
        // A sample may interrupt a switch: each has its own space.
        let wait_scratch = if settings.samples() { cpus } else { 0 };
        let visit_scratch = wait_scratch + cpus;
        let wake_scratch = visit_scratch + 1;
        let scratch = match settings.waits {
            None => cpus,
            Some(waits) if waits.wakers => wake_scratch + cpus,
            Some(_) => wake_scratch,
        };
        let nanoseconds = |time: std::time::Duration| u64::try_from(time.as_nanos());
        Self {
            wait_scratch,
            visit_scratch,
            wake_scratch,
            wakers: u8::from(waits.wakers),
            scratch,
            min: waits.min.and_then(|min| nanoseconds(min).ok()).unwrap_or(0),
            max: waits.max.and_then(|max| nanoseconds(max).ok()).unwrap_or(u64::MAX),
            timed: settings.waits.is_some(),
        }
    }

    /// Sets the programs' globals and the sizes of maps.
    pub fn hand_over<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        let ring = match (self.timed, self.wakers) {
            (false, _) => NO_RING,
            (true, 0) => SUM_RING,
            (true, _) => WAKER_RING,
        };
        loader
            .override_global("WAIT_SCRATCH", &self.wait_scratch, true)
            .override_global("VISIT_SCRATCH", &self.visit_scratch, true)
            .override_global("WAKE_SCRATCH", &self.wake_scratch, true)
            .override_global("WAKERS", &self.wakers, true)
            .override_global("MIN_WAIT", &self.min, true)
            .override_global("MAX_WAIT", &self.max, true)
            .override_global("VISIT_BYTES", &VISIT_BYTES, true)
            .map_max_entries("SCRATCH", self.scratch)
            .map_max_entries("TIMES", ring)
            .map_max_entries("STACKS", if self.timed { STACKS } else { 1 });
    }
}

/// A program at a tracepoint.
///
/// # Errors
///
/// When the object has none of this name.
pub fn tracepoint<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut BtfTracePoint, LoadError> {
    let program = ebpf.program_mut(name).ok_or(LoadError::Missing(name))?;
    program.try_into().map_err(|error| refused(name, &error))
}

/// What times waits.
pub struct Timer {
    /// The sums as they are sent.
    pub ring: RingBuf<MapData>,
    control: Array<MapData, [u64; 2]>,
    told: Control,
    wakers: bool,
    /// What was drained.
    pub sums: Sums,
    /// Sums that could not be decoded.
    pub malformed: u64,
}

impl Timer {
    /// Takes the maps over.
    ///
    /// # Errors
    ///
    /// [`LoadError`].
    pub fn new(ebpf: &mut Ebpf, wakers: bool) -> Result<Self, LoadError> {
        let ring = RingBuf::try_from(take(ebpf, "TIMES")?)?;
        let control = Array::try_from(take(ebpf, "CONTROL")?)?;
        let (told, sums) = (Control::default(), Sums::default());
        Ok(Self { ring, control, told, wakers, sums, malformed: 0 })
    }

    /// Verifies the programs and begins to time. What waits already is taken up by
    /// [`Self::visit`].
    ///
    /// # Errors
    ///
    /// [`LoadError::Program`].
    pub fn attach(&mut self, ebpf: &mut Ebpf) -> Result<(), LoadError> {
        let btf = Btf::from_sys_fs().map_err(|error| refused(SWITCH, &ProgramError::Btf(error)))?;
        let failed = |error| refused(VISIT, &error);
        let program = ebpf.program_mut(VISIT).ok_or(LoadError::Missing(VISIT))?;
        let program: &mut Iter = program.try_into().map_err(failed)?;
        program.load("task", &btf).map_err(failed)?;
        let programs = [(SWITCH, "sched_switch"), (WAKE, "sched_waking")];
        let programs = &programs[..if self.wakers { 2 } else { 1 }];
        // To verify one takes a while, in which the other would miss it.
        for (name, event) in programs {
            let loaded = tracepoint(ebpf, name)?.load(event, &btf);
            loaded.map_err(|error| refused(name, &error))?;
        }
        self.tell(Control { begin: now(), end: 0 })?;
        for (name, _) in programs {
            tracepoint(ebpf, name)?.attach().map_err(|error| refused(name, &error))?;
        }
        Ok(())
    }

    fn tell(&mut self, control: Control) -> Result<(), LoadError> {
        self.told = control;
        Ok(self.control.set(0, [control.begin, control.end], 0)?)
    }

    /// One pass over all tasks.
    ///
    /// # Errors
    ///
    /// [`LoadError::Program`].
    pub fn visit(&mut self, ebpf: &mut Ebpf) -> Result<(), LoadError> {
        let failed = |error| refused(VISIT, &error);
        let program = ebpf.program_mut(VISIT).ok_or(LoadError::Missing(VISIT))?;
        let program: &mut Iter = program.try_into().map_err(failed)?;
        let link = program.attach().map_err(failed)?;
        let link = program.take_link(link).map_err(failed)?;
        let refused = |error: std::io::Error| LoadError::Program {
            program: VISIT,
            refusal: error.to_string(),
        };
        let mut file: File =
            link.into_file().map_err(|error| refused(std::io::Error::other(error)))?;
        // It writes nothing: the end is reached when all tasks were visited.
        file.read(&mut [0; 8]).map_err(refused)?;
        Ok(())
    }

    /// Stops timing; passes over all tasks now bring what is still summed in the kernel.
    pub fn detach(&mut self, ebpf: &mut Ebpf) {
        let end = Control { end: now(), ..self.told };
        self.sums.window = end.end.saturating_sub(end.begin);
        // An array's only element can always be set.
        let _ = self.tell(end);
        for name in [SWITCH, WAKE] {
            if let Some(Program::BtfTracePoint(program)) = ebpf.program_mut(name) {
                // It is not needed any more, attached or not.
                let _ = program.unload();
            }
        }
    }

    /// Takes out the sums that are there.
    pub fn drain(&mut self) {
        while let Some(item) = self.ring.next() {
            match wire::decode(&item) {
                Some(sum) => self.sums.add(&sum),
                None => self.malformed += 1,
            }
        }
    }
}
