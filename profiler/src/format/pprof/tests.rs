//! The decoder of pprof profiles against made ones.

use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};

use super::{
    wire::{Function, Label, Mapping},
    *,
};

const TEXT: [&str; 12] = [
    "",
    "samples",
    "count",
    "cpu",
    "nanoseconds",
    "main",
    "work",
    "inner",
    "main.go",
    "/opt/server",
    "thread",
    "worker-1",
];

/// Two types of value; main calls work, into which inner is inlined.
fn profile() -> Profile {
    let line = |function_id, line| Line { function_id, line };
    let function = |id, name| Function { id, name, system_name: 0, filename: 8 };
    Profile {
        sample_type: vec![ValueType { r#type: 1, unit: 2 }, ValueType { r#type: 3, unit: 4 }],
        sample: vec![
            Sample {
                location_id: vec![2, 1],
                value: vec![3, 30_000_000],
                label: vec![Label { key: 10, str: 11, num: 0 }],
            },
            Sample { location_id: vec![1], value: vec![1, 10_000_000], label: Vec::new() },
        ],
        mapping: vec![Mapping { id: 1, memory_start: 0x40_0000, file_offset: 0x1000, filename: 9 }],
        location: vec![
            Location { id: 1, mapping_id: 1, address: 0x40_1000, line: vec![line(1, 10)] },
            Location {
                id: 2,
                mapping_id: 1,
                address: 0x40_2000,
                line: vec![line(3, 30), line(2, 20)],
            },
        ],
        function: vec![function(1, 5), function(2, 6), function(3, 7)],
        string_table: TEXT.iter().map(|text| text.as_bytes().to_vec()).collect(),
        time_nanos: 1_700_000_000_000_000_000,
        duration_nanos: 2_000_000_000,
        period_type: Some(ValueType { r#type: 3, unit: 4 }),
        period: 10_000_000,
        default_sample_type: 0,
    }
}

fn options(sample_type: Option<&str>) -> Options<'_> {
    Options { sample_type, threads: false, process: "host:80" }
}

fn shown(decoded: &Decoded) -> Vec<String> {
    let name = |frame: &&RawFrame| match frame {
        RawFrame::Process(name) | RawFrame::Thread(name) => name.to_string(),
        RawFrame::Named(frame) if frame.inlined => format!("{}(i)", frame.name),
        RawFrame::Named(frame) => frame.name.to_string(),
        other => format!("{other:?}"),
    };
    let stacks = decoded.stacks.iter().map(|(id, values)| {
        let names: Vec<_> = decoded.stacks.root_first(id).iter().map(name).collect();
        format!("{} {}", names.join(";"), values[0])
    });
    stacks.collect()
}

fn decode_with(profile: &Profile, options: &Options<'_>) -> Result<Decoded, PprofError> {
    decode(&profile.encode_to_vec(), options)
}

#[test]
fn stacks_are_turned_round_and_inlined_calls_told() {
    let decoded = decode_with(&profile(), &options(None)).unwrap();
    assert_eq!(shown(&decoded), ["server;main 10000000", "server;main;work;inner(i) 30000000"]);
    assert_eq!(decoded.metric, Metric { name: "cpu".to_owned(), unit: Unit::Nanoseconds });
    assert_eq!((decoded.samples, decoded.frequency), (4, Some(100)));
    assert_eq!(decoded.duration, Some(Duration::from_secs(2)));
    assert_eq!(decoded.start, Some(UNIX_EPOCH + Duration::from_secs(1_700_000_000)));
    let RawFrame::Named(frame) = decoded.stacks.frames().last().unwrap() else { panic!() };
    assert_eq!((frame.file.as_deref(), frame.line), (Some("main.go"), Some(30)));
}

#[test]
fn the_type_is_the_default_the_last_or_the_one_asked_for() {
    let mut profile = profile();
    let name = |profile: &Profile, wanted| {
        decode_with(profile, &options(wanted)).map(|decoded| decoded.metric.name)
    };
    assert_eq!(name(&profile, None).unwrap(), "cpu");
    assert_eq!(name(&profile, Some("samples")).unwrap(), "samples");
    assert_eq!(name(&profile, Some("0")).unwrap(), "samples");
    let error = name(&profile, Some("space")).unwrap_err().to_string();
    assert!(error.contains("samples, cpu"), "{error}");
    profile.default_sample_type = 1;
    assert_eq!(name(&profile, None).unwrap(), "samples");
    for nonsense in [4, 99, -1, i64::MIN] {
        profile.default_sample_type = nonsense;
        assert_eq!(name(&profile, None).unwrap(), "cpu");
    }
}

#[test]
fn threads_are_frames_where_samples_name_them() {
    let mut profile = profile();
    profile.sample[1].label = vec![Label { key: 10, str: 0, num: 42 }];
    let options = Options { threads: true, ..options(Some("samples")) };
    let decoded = decode_with(&profile, &options).unwrap();
    assert_eq!(shown(&decoded), ["server;worker-1;main;work;inner(i) 3", "server;42;main 1"]);
}

#[test]
fn packed_or_not_is_the_same() {
    let raw = profile().encode_to_vec();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&raw).unwrap();
    let packed = encoder.finish().unwrap();
    assert!(is_profile(&raw) && !is_profile(&packed));
    let decode = |bytes: &[u8]| shown(&decode(bytes, &options(None)).unwrap());
    assert_eq!(decode(&raw), decode(&packed));
}

#[test]
fn values_below_zero_are_left_out_and_said() {
    let mut profile = profile();
    profile.sample[0].value = vec![-3, -30];
    let decoded = decode_with(&profile, &options(None)).unwrap();
    assert_eq!(shown(&decoded), ["server;main 10000000"]);
    assert_eq!(decoded.remarks.len(), 1);
    profile.sample[1].value = vec![0, 0];
    let error = decode_with(&profile, &options(None)).unwrap_err();
    assert!(matches!(error, PprofError::Empty(_)), "{error}");
}

#[test]
fn dangling_ids_and_texts_cost_only_names() {
    let mut profile = profile();
    profile.sample[0].location_id = vec![77, 2, 1];
    profile.location[1].line = vec![Line { function_id: 9, line: -1 }];
    profile.function[0].name = -5;
    profile.mapping[0].filename = 12_345;
    let decoded = decode_with(&profile, &options(Some("samples"))).unwrap();
    assert_eq!(shown(&decoded), ["host:80;[unknown] 1", "host:80;[unknown];[unknown];[unknown] 3"]);
}

#[test]
fn a_nameless_location_keeps_module_and_offset() {
    let mut profile = profile();
    profile.location[1].line.clear();
    profile.sample.truncate(1);
    let decoded = decode_with(&profile, &options(Some("samples"))).unwrap();
    assert_eq!(shown(&decoded), ["server;main;[server+0x3000] 3"]);
}

#[test]
fn wrong_shapes_are_errors() {
    let mut wrong = profile();
    wrong.sample[0].value.pop();
    let error = decode_with(&wrong, &options(None)).unwrap_err().to_string();
    assert_eq!(error, "sample 0 has 1 values, where the profile has 2");
    let mut huge = profile();
    for sample in &mut huge.sample {
        sample.value = vec![1, i64::MAX];
    }
    huge.sample.push(huge.sample[0].clone());
    assert!(matches!(decode_with(&huge, &options(None)), Err(PprofError::HugeTotal)));
    for bytes in [&b""[..], b"<html>", b"main;f 3\n", b"{}", b"\x0a\xff\xff\xff\xff\xff\x01"] {
        let error = decode(bytes, &options(None)).unwrap_err();
        assert!(matches!(error, PprofError::Malformed), "{bytes:?}");
        assert!(!is_profile(bytes) || bytes.is_empty() || bytes[0] == 0x0a, "{bytes:?}");
    }
    // Cut anywhere it is an error or a smaller profile, never a panic.
    let whole = profile().encode_to_vec();
    (0..whole.len()).for_each(|length| drop(decode(&whole[..length], &options(None))));
}

#[test]
fn too_deep_a_stack_keeps_its_leaves() {
    let mut profile = profile();
    profile.sample.truncate(1);
    profile.sample[0].location_id = [vec![2], vec![1; MAX_FRAMES]].concat();
    let decoded = decode_with(&profile, &options(Some("samples"))).unwrap();
    let (id, _) = decoded.stacks.iter().next().unwrap();
    let frames = decoded.stacks.root_first(id);
    assert_eq!(frames.len(), MAX_FRAMES + 2);
    assert_eq!(frames[1], &RawFrame::Truncated(Truncation::TooDeep));
}
