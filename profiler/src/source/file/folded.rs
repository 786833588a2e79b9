//! Folded text as a source: what another run or another tool wrote down.

use std::{
    io::BufRead,
    time::{Duration, UNIX_EPOCH},
};

use crate::{
    format::folded::{self, FoldedError},
    model::{
        frame::{Frame, FrameKind},
        loss::{Loss, Losses, Truncation},
        metric::Metric,
        profile::{Metadata, Profile},
        stacks::Stacks,
    },
};

/// A profile that was read, and what is to be said about it.
#[derive(Debug)]
pub struct Source {
    /// The profile. Counts are taken for samples; when they were taken is not known.
    pub profile: Profile,
    /// Lines that were not UTF-8.
    pub not_utf8: u64,
}

/// Reads folded text. `name` is what the picture calls it.
///
/// # Errors
/// Those of the codec.
pub fn read(input: impl BufRead, name: &str, title: &str) -> Result<Source, FoldedError> {
    let folded = folded::read(input)?;
    let samples = folded.stacks.total(0);
    let (losses, incomplete) = losses(&folded.stacks);
    let profile = Profile {
        metadata: Metadata {
            title: title.to_owned(),
            target: name.to_owned(),
            engine: "folded".to_owned(),
            start: UNIX_EPOCH,
            duration: Duration::ZERO,
            frequency: None,
        },
        metrics: vec![Metric::samples()],
        stacks: folded.stacks,
        losses,
        samples,
        complete: samples.saturating_sub(incomplete),
    };
    Ok(Source { profile, not_utf8: folded.not_utf8 })
}

/// What the markers in stacks say, and the samples of all that carry one.
fn losses(stacks: &Stacks<Frame>) -> (Losses, u64) {
    let mut losses = Losses::default();
    let mut incomplete: u64 = 0;
    for (id, values) in stacks.iter() {
        // Never only the first marker of a stack: a stack is one loss, whatever it carries.
        let Some(marker) = stacks.leaf_first(id).filter_map(cause).last() else { continue };
        incomplete = incomplete.saturating_add(values[0]);
        match marker {
            Marker::Truncated(Some(cause)) => {
                *losses.truncated.entry(cause).or_default() += values[0];
            }
            Marker::Lost(Some(cause)) => losses.lose(cause, values[0]),
            Marker::Truncated(None) | Marker::Lost(None) => {}
        }
    }
    (losses, incomplete)
}

/// A marker, with its cause if it is one of ours.
enum Marker {
    Truncated(Option<Truncation>),
    Lost(Option<Loss>),
}

fn cause(frame: &Frame) -> Option<Marker> {
    if frame.kind != FrameKind::Marker {
        return None;
    }
    let text = frame.name.strip_suffix(']')?;
    if let Some(name) = text.strip_prefix("[truncated: ") {
        return Some(Marker::Truncated(Truncation::ALL.into_iter().find(|c| c.name() == name)));
    }
    let name = text.strip_prefix("[lost: ")?;
    Some(Marker::Lost(Loss::ALL.into_iter().find(|c| c.name() == name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_are_counted_as_what_they_say() {
        let text = b"a;main;f 90\na;[truncated: too deep];f 6\na;[lost: ring buffer full] 3\n\
                     a;[truncated: other];f 1\n";
        let profile = read(&text[..], "x.folded", "t").unwrap().profile;
        assert_eq!((profile.samples, profile.complete), (100, 90));
        assert_eq!(profile.losses.truncated[&Truncation::TooDeep], 6);
        assert_eq!(profile.losses.lost[&Loss::RingFull], 3);
    }
}
