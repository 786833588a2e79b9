//! Probing the kernel that this test runs on.

use super::*;

fn allowed() -> bool {
    // CAP_SYS_ADMIN of capability.h; a container's root may have less.
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap() >> 21 & 1 == 1
}

#[test]
fn every_feature_is_tried_and_every_refusal_explained() {
    let probes = Probes::run(&Feature::ALL, Path::new("/sys"), 0, true);
    assert_eq!(probes.iter().count(), Feature::ALL.len());
    for (feature, outcome) in probes.iter() {
        if let Err(refusal) = outcome {
            assert!(!refusal.reason.is_empty(), "{feature:?}");
            assert_ne!(refusal.errno, libc::EFAULT, "{feature:?}: an address of ours is wrong");
        }
    }
}

#[test]
fn a_privileged_test_finds_what_every_kernel_has() {
    if !allowed() {
        eprintln!("skipped: needs root");
        return;
    }
    let probes = Probes::run(&Feature::ALL, Path::new("/sys"), 0, true);
    for feature in [
        Feature::PerfEventProgram,
        Feature::RawTracepointProgram,
        Feature::TracepointProgram,
        Feature::Loop,
        Feature::KernelStack,
        Feature::UserRegisters,
        Feature::ReadUser,
        Feature::ReadKernel,
        Feature::RingBuffer,
        Feature::MappableArray,
        Feature::ArrayOfMaps,
        Feature::PrefixTrie,
        Feature::UserCpuClock,
    ] {
        assert!(probes.works(feature), "{feature:?}: {:?}", probes.refusal(feature));
    }
    let btf = Path::new("/sys/kernel/btf/vmlinux").exists();
    for feature in
        [Feature::BtfTracepointProgram, Feature::TaskIterator, Feature::SleepableTaskIterator]
    {
        assert_eq!(probes.works(feature), btf, "{:?}", probes.refusal(feature));
    }
    // Without BTF and devices below sysfs these are refused without asking the kernel.
    let empty = tempfile::tempdir().unwrap();
    let probes = Probes::run(&Feature::ALL, empty.path(), 0, false);
    assert_eq!(probes.refusal(Feature::TaskIterator).unwrap().errno, 0);
    assert_eq!(probes.refusal(Feature::KprobeProgram).unwrap().errno, 0);
    assert!(probes.works(Feature::PerfEventProgram));
}

#[test]
fn a_refused_program_is_explained_by_the_verifier_when_asked() {
    if !allowed() {
        eprintln!("skipped: needs root");
        return;
    }
    // bpf_loop without the BTF that its callback needs.
    let program =
        Program { kind: PERF_EVENT, instructions: programs::LOOPING, ..Program::default() };
    let probe = |verbose| BpfProbe { sys: Path::new("/sys"), btf: OnceCell::new(), verbose };
    let silent = probe(false).program(&program).unwrap_err();
    assert_eq!((silent.errno, silent.verifier_log), (libc::EINVAL, None));
    assert!(probe(true).program(&program).unwrap_err().verifier_log.is_some());
}

#[test]
fn features_are_named_once() {
    let mut names: Vec<&str> = Feature::ALL.iter().map(|feature| feature.name()).collect();
    assert!(names.iter().all(|name| name.len() <= 30), "they stand in columns");
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Feature::ALL.len());
    assert!(Feature::ALL.is_sorted());
    assert!(Feature::PrefixTrie.is_bpf() && !Feature::HostCpuClock.is_bpf());
}
