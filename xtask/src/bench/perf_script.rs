//! Reading what `perf script -F tid,time,ip,sym,dso` prints. Pure.
//!
//! A sample is a line `  TID  SECONDS.MICROSECONDS: `, then a line for each frame, the leaf first,
//! which begins with a tab: `        ADDRESS SYMBOL (FILE)`, then an empty line. The file of an
//! inlined call is `inlined`. The address is an offset in the file, where that is known.

use std::io::{self, BufRead};

/// One sample.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// Seconds, on the clock that perf was told to use.
    pub time: f64,
    /// The leaf first.
    pub frames: Vec<Frame>,
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub address: u64,
    pub symbol: String,
    pub file: String,
}

impl Sample {
    /// The outermost frame that is not an inlined call.
    pub fn root(&self) -> Option<&Frame> {
        self.frames.iter().rev().find(|frame| frame.file != "inlined")
    }
}

/// Calls `each` with every sample. Lines that are something else are passed over.
///
/// # Errors
/// When the input cannot be read.
pub fn read(mut input: impl BufRead, mut each: impl FnMut(&Sample)) -> io::Result<()> {
    let mut sample: Option<Sample> = None;
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = input.read_until(b'\n', &mut line)?;
        let text = String::from_utf8_lossy(&line);
        let is_frame = text.starts_with('\t');
        if !is_frame && let Some(done) = sample.take_if(|_| length == 0 || text.trim().is_empty()) {
            each(&done);
        }
        if length == 0 {
            return Ok(());
        }
        if is_frame {
            if let (Some(sample), Some(frame)) = (&mut sample, frame(&text)) {
                sample.frames.push(frame);
            }
        } else if let Some(time) = head(&text) {
            // A sample without frames is not followed by an empty line.
            if let Some(done) = sample.replace(Sample { time, frames: Vec::new() }) {
                each(&done);
            }
        }
    }
}

/// The time of a sample's first line.
fn head(line: &str) -> Option<f64> {
    let mut words = line.split_whitespace();
    let (tid, time) = (words.next()?, words.next()?);
    tid.parse::<i64>().ok()?;
    time.strip_suffix(':')?.parse().ok()
}

fn frame(line: &str) -> Option<Frame> {
    let (address, rest) = line.trim().split_once(' ')?;
    let address = u64::from_str_radix(address, 16).ok()?;
    // Names hold spaces and parentheses; the file is in the last ones.
    let (symbol, file) = rest.rsplit_once(" (")?;
    let file = file.strip_suffix(')').unwrap_or(file).to_owned();
    Some(Frame { address, symbol: symbol.trim().to_owned(), file })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = concat!(
        " 1234   56.789012: \n",
        "\t    55d0c0de1180 leaf (inlined)\n",
        "\t    55d0c0de1180 work(int, char (*)(long)) (/tmp/a b)\n",
        "\t            1234 [unknown] (/usr/lib/libc.so.6)\n",
        "\n",
        " 1235   57.000001: \n",
        "\n",
        "a warning\n",
        "   -1   58.000001: \n",
        "   12   59.5: \n",
        "\tffffffff81000000 asm_sysvec (",
        "[kernel.kallsyms])\n",
        "\t    55d0c0de1190 main (/tmp/a)\n",
    );

    fn samples(text: &str) -> Vec<Sample> {
        let mut samples = Vec::new();
        read(text.as_bytes(), |sample| samples.push(sample.clone())).unwrap();
        samples
    }

    #[test]
    fn samples_have_their_frames() {
        let samples = samples(TEXT);
        let times: Vec<f64> = samples.iter().map(|sample| sample.time).collect();
        assert_eq!(times, [56.789012, 57.000001, 58.000001, 59.5]);
        let first = &samples[0].frames;
        assert_eq!(first[0].symbol, "leaf");
        assert_eq!(first[0].file, "inlined");
        assert_eq!(first[1].symbol, "work(int, char (*)(long))");
        assert_eq!(first[1].file, "/tmp/a b");
        assert_eq!(first[2].symbol, "[unknown]");
        let root = samples[0].root().unwrap();
        assert_eq!((root.address, root.file.as_str()), (0x1234, "/usr/lib/libc.so.6"));
        assert_eq!(samples[1].root(), None);
        assert_eq!(samples[3].frames.len(), 2);
    }

    #[test]
    fn other_text_holds_no_samples() {
        assert!(samples("").is_empty());
        assert!(samples("\n\n\tabc\nx y z\n12\n").is_empty());
        let broken = samples("1 2.0: \n\tzz what (x)\n\t12\n\n");
        assert_eq!(broken, [Sample { time: 2.0, frames: Vec::new() }]);
    }
}
