//! Writes the corpora that the fuzz targets begin with: `fuzz_seeds DIR [TRACE]...`.
//!
//! DIR gets a folder for each target, with parts of the traces, as they are and with their messages stored plainly, so
//! that a mutation of the file is one of the message.

#[path = "../tests/common/frames.rs"]
mod frames;
#[path = "../tests/common/hostile.rs"]
mod hostile;

use std::path::Path;
use std::{env, fs, io};

/// Seeds that are longer make fuzzing slow.
const LONGEST: usize = 1 << 15;

fn main() -> io::Result<()> {
    let mut words = env::args_os().skip(1);
    let Some(folder) = words.next() else {
        eprintln!("fuzz_seeds DIR [TRACE]...");
        std::process::exit(2);
    };
    let put = |target: &str, bytes: &[u8]| -> io::Result<()> {
        if bytes.len() > LONGEST {
            return Ok(());
        }
        let folder = Path::new(&folder).join(target);
        fs::create_dir_all(&folder)?;
        fs::write(
            folder.join(traces::sha256(bytes)[..8].iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
            bytes,
        )
    };
    let (blocks, index, events) = hostile::sound_trace();
    let mut numbered = 0_u64.to_le_bytes().to_vec();
    numbered.extend((events.len() as u64).to_le_bytes());
    numbered.extend(index);
    put("index", &numbered)?;
    put("seek", &hostile::sound_seek().bytes)?;
    let mut traces = vec![[&blocks[..], &hostile::frame(b"INDX", (0, 0), index)[..]].concat()];
    let end = hostile::trailer(blocks.len() as u64, events.len() as u64);
    traces[0].extend(end);
    for path in words {
        traces.push(fs::read(path)?);
    }
    for bytes in traces {
        let mut plain = bytes[..16].to_vec();
        for frame in frames::frames(&bytes) {
            let number = |at: usize| frames::u32_at(&frame.head, at) as u32;
            let tag: [u8; 4] = frame.head[..4].try_into().unwrap_or(*b"EVTS");
            let first = u64::from(number(16)) | u64::from(number(20)) << 32;
            plain.extend(hostile::frame(&tag, (first, number(12)), &frame.message));
            match &tag {
                b"HEAD" => put("header", &frame.message)?,
                b"EVTS" => put("block", &frame.message)?,
                _ => put("index", &[&[0; 16], &frame.message[..]].concat())?,
            }
        }
        plain.extend(&bytes[bytes.len() - 32..]);
        for target in ["reader", "salvage"] {
            put(target, &bytes)?;
            put(target, &hostile::mend(&plain))?;
        }
    }
    Ok(())
}
