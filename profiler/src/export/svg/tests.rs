//! Tests of the drawn picture.

use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::model::{
    frame::FrameKind, loss::Losses, metric::Metric, profile::Metadata, stacks::Stacks,
};

fn profile(stacks: Stacks<Frame>) -> Profile {
    let samples = stacks.total(0);
    Profile {
        metadata: Metadata {
            title: "CPU <&> \u{1}".to_owned(),
            target: "whole host".to_owned(),
            engine: "ebpf".to_owned(),
            start: UNIX_EPOCH + Duration::from_secs(1_795_521_603),
            duration: Duration::from_secs(30),
            frequency: Some(99),
        },
        metrics: vec![Metric::samples()],
        stacks,
        losses: Losses::default(),
        samples,
        complete: samples,
    }
}

fn read(text: &str) -> Profile {
    profile(folded::read(text.as_bytes()).unwrap().stacks)
}

fn draw(profile: &Profile) -> String {
    let mut out = Vec::new();
    Svg.export(profile, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

/// Titles of the frames, in the order of drawing.
fn titles(svg: &str) -> Vec<&str> {
    svg.split("<title>").skip(1).filter_map(|rest| rest.split("</title>").next()).collect()
}

#[test]
fn the_picture_says_what_it_shows() {
    let svg = draw(&read("app;main;work 4612\napp;main 1000\n"));
    let subtitle = "whole host, 2026-11-24 12:00:03 UTC, 30 s at 99 Hz, 5,612 samples, \
                    100 % complete, lost 0";
    assert!(svg.contains(subtitle));
    assert!(svg.contains("CPU &lt;&amp;&gt; \\x01"));
    assert!(titles(&svg).contains(&"work (4,612 samples, 82.18%)"));
    assert!(titles(&svg).contains(&"all (5,612 samples, 100%)"));
}

#[test]
fn the_same_profile_is_the_same_picture() {
    let text = "app;main;a 3\napp;main;b_[k] 2\nother;x::y 1\n";
    let first = draw(&read(text));
    assert_eq!(first, draw(&read(text)));
    let reversed: Vec<&str> = text.lines().rev().collect();
    assert_eq!(first, draw(&read(&reversed.join("\n"))));
}

#[test]
fn names_survive_the_drawing() {
    let names = ["<[u8; 8] as Trait>::f", "worker 3", "v 1.5", "a 12", "-", "x y", "\\n"];
    let mut stacks = Stacks::new(1);
    let process = Frame::symbol("# app", FrameKind::Process);
    for name in names {
        let id = stacks.intern(&[process.clone(), Frame::symbol(name, FrameKind::Native)]);
        stacks.add(id, 0, 10);
    }
    let svg = draw(&profile(stacks));
    for name in names {
        let escaped = name.replace('<', "&lt;").replace('>', "&gt;");
        let title = format!("{escaped} (10 samples, 14.29%)");
        assert!(titles(&svg).contains(&title.as_str()), "{title}: {:?}", titles(&svg));
    }
    assert!(titles(&svg).contains(&"\\x23 app (70 samples, 100.00%)"), "{:?}", titles(&svg));
}

#[test]
fn a_frame_is_one_box_beside_similar_names() {
    let svg = draw(&read("a;x 1\na 2;y 1\na b;z 1\na!;y 1\na;z 1\na 5\n"));
    let a = titles(&svg).iter().filter(|title| title.starts_with("a (")).count();
    assert_eq!(a, 1, "{:?}", titles(&svg));
}

#[test]
fn narrow_frames_keep_their_weight_below() {
    let mut text = String::from("app;main;big 1000000\n");
    for number in 0..500 {
        text.push_str(&format!("app;main;tiny{number} 1\n"));
    }
    let svg = draw(&read(&text));
    assert!(!svg.contains("tiny"));
    assert!(titles(&svg).contains(&"main (1,000,500 samples, 100.00%)"));
}

#[test]
fn nothing_is_not_drawn() {
    let empty = profile(Stacks::new(1));
    assert!(matches!(Svg.export(&empty, &mut Vec::new()), Err(ExportError::Empty)));
}
