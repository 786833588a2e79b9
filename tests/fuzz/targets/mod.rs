//! The fuzz targets: one test for each reader of outside bytes.
//!
//! The files in `seeds/unwind` are small programs, linked without libc and with tiny pages so that
//! they are short: with `.eh_frame`, with `.debug_frame`, with frame pointers, with a lazy PLT.

mod walk;

use std::time::Duration;

use flame_graph::{
    format::{
        cpuprofile, detect, folded,
        inspector::{self, AttachedWorker, Evaluated, FromWorker, Message},
        jitdump, nettrace, perf_map, perf_script, pprof, py_spy,
        script_profiler::Tracked,
        speedscope, svg, xz,
    },
    source::native::{
        perf_event::sample::{Decoded, Layout},
        samples::Sample,
        sideband,
    },
    unwind,
};
use profiler_ebpf::wire::SampleHeader;

use crate::{fuzz, seeds};

#[test]
fn unwind_tables() {
    for seed in seeds("unwind") {
        assert!(unwind::compile(&seed).unwrap().rows.len() > 2);
    }
    fuzz("unwind", vec![], |bytes| {
        let Ok(rows) = unwind::compile(bytes) else { return };
        // What the tables' filling relies on.
        assert!(rows.rows.iter().all(|row| (row.rule() as usize) < rows.rules.len()));
        assert!(rows.rows.is_sorted_by(|one, next| one.address() < next.address()));
        assert!(rows.text.is_sorted_by(|one, next| one.address + one.size <= next.address));
    });
}

#[test]
fn code_made_at_run_time() {
    // A beginning, a branch, calls, and ends of several kinds.
    let code = [
        0x55, 0x48, 0x83, 0xec, 0x20, 0x85, 0xc0, 0x74, 0x0b, 0x48, 0x83, 0xc4, 0x20, 0x5d, 0xc3,
        0xe8, 0, 0, 0, 0, 0x49, 0xbb, 0x40, 0, 0x10, 0, 0, 0, 0, 0, 0x4d, 0x8d, 0x5b, 0xe0, 0x41,
        0xff, 0xe3, 0xc9, 0xc2, 0x10, 0, 0xeb, 0xd0, 0x48, 0x8b, 0x6c, 0x24, 0x10, 0xff, 0x60,
        0xe0,
    ];
    fuzz("made-code", vec![code.to_vec()], |bytes| {
        // The code, over and over, in some pages.
        let mut read = |at: u64| {
            let page = at.checked_sub(0x10_0000)? as usize;
            let mut bytes = bytes.iter().copied().cycle().skip(page % bytes.len().max(1));
            let mut page = || Some(Box::new(std::array::from_fn(|_| bytes.next().unwrap_or(0))));
            (at < 0x10_4000).then(&mut page)?
        };
        for address in [0x10_0000, 0x10_0fff, 0x10_2003, u64::MAX, 0] {
            let mut steps = 1 << 12;
            let ways = unwind::ways_out(address, &mut steps, &mut read);
            let frame = unwind::frame_at(address, &mut read);
            assert!(steps <= 1 << 12);
            // What a walk makes of them must lead upwards.
            let ends = ways.iter().chain(&frame).map(|way| way.cfa_offset - way.ra_offset.abs());
            assert!(ends.into_iter().all(|end| end.abs() <= 1 << 25));
        }
    });
}

#[test]
fn folded_text() {
    assert!(seeds("folded").iter().any(|seed| folded::read(&**seed).is_ok()));
    fuzz("folded", vec![], |bytes| {
        let Ok(read) = folded::read(bytes) else { return };
        // What was read is written so that it reads the same.
        let mut text = Vec::new();
        folded::write(&read.stacks, 0, &mut text).unwrap();
        let again = folded::read(&*text).unwrap();
        let mut twice = Vec::new();
        folded::write(&again.stacks, 0, &mut twice).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), String::from_utf8(twice).unwrap());
    });
}

#[test]
fn perf_maps() {
    assert!(seeds("perf-map").iter().all(|seed| perf_map::latest_first(seed).count() > 2));
    fuzz("perf-map", vec![], |bytes| {
        perf_map::latest_first(bytes).for_each(drop);
    });
}

#[test]
fn speedscope_profiles() {
    let options = |threads| speedscope::Options { threads, process: "host" };
    assert!(
        seeds("speedscope").iter().all(|seed| speedscope::decode(seed, &options(true)).is_ok())
    );
    fuzz("speedscope", vec![], |bytes| {
        let _ = detect(bytes);
        let Ok(decoded) = speedscope::decode(bytes, &options(bytes.len() % 2 == 0)) else { return };
        assert!(decoded.stacks.total(0) > 0);
    });
}

#[test]
fn raw_text_of_py_spy() {
    let options = |threads| py_spy::Options { threads, process: "python" };
    let whole =
        |seed: &Vec<u8>| py_spy::is_raw(seed) && py_spy::decode(seed, &options(true)).is_ok();
    assert!(seeds("py-spy").iter().all(whole));
    fuzz("py-spy", vec![], |bytes| {
        let _ = py_spy::is_raw(bytes);
        let Ok(decoded) = py_spy::decode(bytes, &options(bytes.len() % 2 == 0)) else { return };
        assert!(decoded.stacks.total(0) > 0);
    });
}

#[test]
fn perf_scripts() {
    let options = |odd| perf_script::Options { event: None, threads: odd, idle: odd };
    let read = |seed: &Vec<u8>| perf_script::read(&**seed, &options(true)).is_ok();
    assert!(seeds("perf-script").iter().all(read));
    fuzz("perf-script", vec![], |bytes| {
        let _ = detect(bytes);
        let mut threads = 0;
        assert!(perf_script::read_switches(bytes, |moment| threads |= moment.tid).is_ok());
        let Ok(decoded) = perf_script::read(bytes, &options(bytes.len() % 2 == 0)) else { return };
        assert!(decoded.stacks.total(0) > 0);
    });
}

#[test]
fn jitdumps() {
    assert_eq!(jitdump::read(&*jitdump_seed()).unwrap().code.len(), 1);
    fuzz("jitdump", vec![jitdump_seed()], |bytes| {
        let _ = jitdump::read(bytes);
    });
}

#[test]
fn packed_symbols() {
    assert!(seeds("xz").iter().all(|seed| xz::unpack(seed, 1 << 20).is_ok()));
    fuzz("xz", vec![], |bytes| {
        assert!(xz::unpack(bytes, 1 << 20).map_or(0, |unpacked| unpacked.len()) <= 1 << 20);
    });
}

#[test]
fn pprof_profiles() {
    let options = |threads| pprof::Options { sample_type: None, threads, process: "host" };
    assert!(seeds("pprof").iter().all(|seed| pprof::decode(seed, &options(false)).is_ok()));
    fuzz("pprof", vec![], |bytes| {
        let _ = pprof::is_profile(bytes);
        let Ok(decoded) = pprof::decode(bytes, &options(bytes.len() % 2 == 0)) else { return };
        // Whoever draws it relies on a value.
        assert!(decoded.stacks.total(0) > 0);
    });
}

#[test]
fn v8_profiles() {
    let options = |idle| cpuprofile::Options { idle, process: "host" };
    assert!(
        seeds("cpuprofile").iter().all(|seed| cpuprofile::decode(seed, &options(true)).is_ok())
    );
    fuzz("cpuprofile", vec![], |bytes| {
        let _ = detect(bytes);
        let _ = cpuprofile::decode(bytes, &options(bytes.len() % 2 == 0));
    });
}

/// The messages of a websocket to an inspector, and the answer that leads to it.
#[test]
fn inspector_messages() {
    let known = |seed: &Vec<u8>| {
        str::from_utf8(seed).is_ok_and(|text| Message::read(text).is_ok())
            || inspector::target_path(seed).is_some()
    };
    assert!(seeds("inspector").iter().all(known));
    fuzz("inspector", vec![], |bytes| {
        let _ = inspector::is_whole(bytes);
        // It becomes part of a request.
        let path = inspector::target_path(bytes).unwrap_or_default();
        assert!(path.bytes().all(|byte| byte.is_ascii_graphic()));
        let Ok(text) = str::from_utf8(bytes) else { return };
        let Ok(message) = Message::read(text) else { return };
        match message {
            Message::Event(_) => {
                let mut tracked = Tracked::new("p", None);
                let samples = tracked.add(text).unwrap_or_default();
                let decoded = tracked.finish(Duration::from_secs(1));
                assert_eq!(decoded.map_or(0, |decoded| decoded.stacks.total(0)), samples);
                let _ = inspector::parameters::<AttachedWorker>(text);
                let inner = inspector::parameters::<FromWorker>(text);
                let _ = inner.map(|inner| Message::read(&inner.message));
            }
            Message::Reply(_) => {
                let _ = inspector::result::<Evaluated>(text);
                let _ =
                    cpuprofile::decode(bytes, &cpuprofile::Options { idle: true, process: "p" });
            }
            Message::Refused { why, .. } => assert!(why.chars().count() <= 300),
        }
    });
}

#[test]
fn dotnet_traces() {
    let show = |all| nettrace::Show { threads: all, idle: all };
    assert!(seeds("nettrace").iter().all(|seed| nettrace::decode(seed, show(false), "x").is_ok()));
    fuzz("nettrace", vec![], |bytes| {
        let _ = detect(bytes);
        let all = bytes.len() % 2 == 0;
        let Ok(whole) = nettrace::decode(bytes, show(all), "host") else { return };
        assert!(whole.decoded.stacks.total(0) > 0);
        let mut pieces = nettrace::Decoder::new(show(all));
        // It ends at the same place, however it comes.
        let _ = bytes.chunks(1000).try_for_each(|piece| pieces.feed(piece));
        let pieces = pieces.finish("host", |thread| thread.to_string());
        assert_eq!(whole.decoded.samples, pieces.decoded.samples);
    });
}

#[test]
fn pictures() {
    let decode = |bytes: &[u8]| svg::decode(&String::from_utf8_lossy(bytes));
    assert!(seeds("svg").iter().all(|seed| decode(seed).is_ok()));
    fuzz("svg", vec![], |bytes| {
        let _ = detect(bytes);
        let Ok(decoded) = decode(bytes) else { return };
        assert!(decoded.stacks.total(0) > 0);
    });
}

#[test]
fn samples() {
    let words = SampleHeader::WORDS + 8;
    let mut seed: Vec<u8> = (0..words as u64).flat_map(|word| (word % 5).to_le_bytes()).collect();
    // As many kernel and user frames and copied bytes as follow.
    for (word, value) in [(6, 2_u32), (7, 2), (8, 32)] {
        seed[4 * word..4 * word + 4].copy_from_slice(&value.to_le_bytes());
    }
    assert!(Sample::decode(&seed).is_ok());
    fuzz("samples", vec![seed], |bytes| {
        let Ok(sample) = Sample::decode(bytes) else { return };
        let _ = sample.comm();
        for address in (0..64).chain([u64::MAX - 7, u64::MAX]) {
            let _ = sample.word(address);
            let _ = sample.word(sample.header.registers.sp.wrapping_add(address));
        }
    });
}

#[test]
fn perf_samples() {
    let layout = Layout { kernel: true, user: true, cgroup: true };
    // Ids, time, one kernel frame, 64-bit registers, 16 bytes of stack of which 8 are filled, a
    // cgroup.
    let mut words = vec![8 << 32 | 7, 9, 1, 0xffff_ffff_8100_0000, 2];
    words.extend(100..117);
    words.extend([16, 1, 2, 8, 42_u64]);
    let seed: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    assert!(layout.decode(&seed, 0).is_ok());
    fuzz("perf-samples", vec![seed], |bytes| {
        for (kernel, user) in [(false, false), (false, true), (true, false), (true, true)] {
            let layout = Layout { kernel, user, cgroup: user };
            let Ok(Decoded { sample, .. }) = layout.decode(bytes, 1) else { continue };
            assert_eq!(sample.header.user_frames as usize, sample.user.len());
            assert!(sample.stack.len() <= bytes.len());
            let _ = sample.word(sample.header.registers.sp);
        }
    });
}

#[test]
fn side_band_records() {
    // The record's type, its misc bits, then its body: numbers, a name, the trailer.
    let seed = |kind: u16| {
        let mut bytes = vec![kind as u8, 0, 2, 0];
        bytes.extend((1..=16_u32).flat_map(u32::to_le_bytes));
        bytes.extend(b"/usr/bin/name\0\0\0");
        bytes.extend([7; 16]);
        bytes
    };
    let seeds: Vec<_> = (0..24).map(seed).collect();
    let known = seeds
        .iter()
        .filter(|seed| matches!(sideband::decode(u32::from(seed[0]), 2, &seed[4..]), Ok(Some(_))));
    assert!(known.count() >= 4);
    fuzz("side-band", seeds, |bytes| {
        let Some((head, body)) = bytes.split_first_chunk::<4>() else { return };
        let [kind, _, misc @ ..] = *head;
        let _ = sideband::decode(u32::from(kind), u16::from_le_bytes(misc), body);
    });
}

/// A dump with one function (tools/perf/Documentation/jitdump-specification.txt).
fn jitdump_seed() -> Vec<u8> {
    let mut dump = Vec::new();
    // Magic, version, header size, machine, padding, pid; then time and flags.
    for word in [0x4a69_5444_u32, 1, 40, 62, 0, 4711, 1, 0, 0, 0] {
        dump.extend(word.to_le_bytes());
    }
    let code = [0x90; 16];
    let name = b"work\0";
    let size = 16 + 8 + 32 + name.len() + code.len();
    for word in [0_u32, size as u32, 2, 0, 4711, 4711] {
        dump.extend(word.to_le_bytes());
    }
    for word in [0x7f00_0000_1000_u64, 0x7f00_0000_1000, code.len() as u64, 1] {
        dump.extend(word.to_le_bytes());
    }
    dump.extend(name);
    dump.extend(code);
    dump
}
