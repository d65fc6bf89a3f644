//! How a debugger is reached: where to listen, and the bytes of one that has come.

use gdbstub::conn::Connection;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpListener;
#[cfg(unix)]
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel, sync_channel};
use std::thread;
use std::time::Duration;

/// Reads of a debugger that are held at most: one that sends and does not wait is not read any further.
const HELD: usize = 64;

/// How long a debugger that does not take what it asked for is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where debuggers come in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// A host and a port, as `localhost:1234`.
    Tcp(String),
    /// A Unix socket that is made.
    Unix(PathBuf),
    /// One debugger, at standard input and output.
    Stdio,
}

impl FromStr for Address {
    type Err = String;

    /// From `HOST:PORT`, `:PORT`, `unix:PATH`, or `-`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "-" {
            return Ok(Self::Stdio);
        }
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::Unix(path.into()));
        }
        match text.rsplit_once(':') {
            Some((host, port)) if port.parse::<u16>().is_ok() && !port.is_empty() => {
                let host = if host.is_empty() { "127.0.0.1" } else { host };
                Ok(Self::Tcp(format!("{host}:{port}")))
            }
            _ => Err("it is none of HOST:PORT, :PORT, unix:PATH and -".to_owned()),
        }
    }
}

/// Where in a packet the next byte is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Inside {
    Nothing,
    Body,
    /// That many digits of the checksum are to come.
    Sum(u8),
}

/// One debugger's bytes, both ways.
pub(super) struct Link {
    out: Box<dyn Write + Send>,
    buffer: Vec<u8>,
    bytes: Receiver<Vec<u8>>,
    waiting: VecDeque<u8>,
    /// Where the next of them is.
    packet: Inside,
    closed: bool,
    /// Cleared when it ends, so that another may come.
    busy: Option<Arc<AtomicBool>>,
}

impl Link {
    fn new(
        mut from: impl Read + Send + 'static,
        out: Box<dyn Write + Send>,
        busy: Option<Arc<AtomicBool>>,
    ) -> io::Result<Self> {
        let (sender, bytes) = sync_channel(HELD);
        // It ends with the connection, or when nobody listens to it.
        thread::Builder::new().name("debugger".into()).spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self {
            out,
            buffer: Vec::new(),
            bytes,
            waiting: VecDeque::new(),
            packet: Inside::Nothing,
            closed: false,
            busy,
        })
    }

    /// The next byte, when there is one; `None` when the debugger has gone. A debugger that grew tired of waiting for an
    /// answer asks for it again, though it will come: that is left out.
    pub(super) fn next(&mut self) -> Option<u8> {
        loop {
            let byte = self.next_byte()?;
            let before = self.packet;
            self.packet = match (before, byte) {
                (Inside::Nothing, b'$') => Inside::Body,
                (Inside::Body, b'#') => Inside::Sum(2),
                (Inside::Sum(left @ 2..), _) => Inside::Sum(left - 1),
                (Inside::Sum(_), _) => Inside::Nothing,
                (before, _) => before,
            };
            if before != Inside::Nothing || byte != b'-' {
                return Some(byte);
            }
        }
    }

    fn next_byte(&mut self) -> Option<u8> {
        if self.waiting.is_empty() && !self.closed {
            match self.bytes.recv() {
                Ok(bytes) => self.waiting.extend(bytes),
                Err(_) => self.closed = true,
            }
        }
        self.waiting.pop_front()
    }

    /// Whether it has sent something, or has gone.
    pub(super) fn stirs(&mut self) -> bool {
        if self.waiting.is_empty() && !self.closed {
            match self.bytes.try_recv() {
                Ok(bytes) => self.waiting.extend(bytes),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => self.closed = true,
            }
        }
        self.closed || !self.waiting.is_empty()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(busy) = &self.busy {
            busy.store(false, Ordering::SeqCst);
        }
    }
}

impl Connection for Link {
    type Error = io::Error;

    fn write(&mut self, byte: u8) -> io::Result<()> {
        self.buffer.push(byte);
        Ok(())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        self.out.flush()
    }
}

/// Debuggers, one behind the other.
pub(super) struct Door {
    links: Receiver<Link>,
    /// Where it listens, in words.
    pub(super) at: String,
}

impl Door {
    /// Opens one.
    pub(super) fn open(address: &Address) -> io::Result<Self> {
        let (sender, links) = channel();
        let at = match address {
            Address::Stdio => {
                // The receiver is still here.
                let _ = sender.send(Link::new(io::stdin(), Box::new(io::stdout()), None)?);
                "standard input".to_owned()
            }
            Address::Tcp(at) => {
                let listener = TcpListener::bind(at)?;
                let at = listener.local_addr()?.to_string();
                thread::Builder::new().name("door".into()).spawn(move || {
                    let streams = listener.incoming().filter_map(|stream| {
                        let stream = stream.ok()?;
                        // Packets are small and answered one by one.
                        let _ = stream.set_nodelay(true);
                        let _ = stream.set_write_timeout(Some(PATIENCE));
                        Some((stream.try_clone().ok()?, stream))
                    });
                    let close = |stream: &std::net::TcpStream| stream.shutdown(std::net::Shutdown::Both);
                    let _ = admit(streams.map(|(from, out)| (from, Out { out, close })), &sender);
                })?;
                at
            }
            #[cfg(unix)]
            Address::Unix(path) => {
                let listener = listen_unix(path)?;
                thread::Builder::new().name("door".into()).spawn(move || {
                    let streams = listener.incoming().filter_map(|stream| {
                        let stream = stream.ok()?;
                        let _ = stream.set_write_timeout(Some(PATIENCE));
                        Some((stream.try_clone().ok()?, stream))
                    });
                    let close = |stream: &std::os::unix::net::UnixStream| stream.shutdown(std::net::Shutdown::Both);
                    let _ = admit(streams.map(|(from, out)| (from, Out { out, close })), &sender);
                })?;
                path.display().to_string()
            }
            #[cfg(not(unix))]
            Address::Unix(_) => return Err(io::Error::other("this system has no Unix sockets")),
        };
        Ok(Self { links, at })
    }

    /// The next debugger; `None` when no more can come.
    pub(super) fn next(&mut self) -> Option<Link> {
        self.links.recv().ok()
    }
}

/// A socket of a path where nobody listens: one that was left behind goes.
#[cfg(unix)]
fn listen_unix(path: &std::path::Path) -> io::Result<UnixListener> {
    use std::os::unix::fs::FileTypeExt;
    use std::os::unix::net::UnixStream;
    let left = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if left && UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    UnixListener::bind(path)
}

/// The way out to a debugger, which ends the connection when it is dropped.
struct Out<S, C: Fn(&S) -> io::Result<()>> {
    out: S,
    close: C,
}

impl<S: Write, C: Fn(&S) -> io::Result<()>> Write for Out<S, C> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl<S, C: Fn(&S) -> io::Result<()>> Drop for Out<S, C> {
    fn drop(&mut self) {
        // It may have gone by itself.
        let _ = (self.close)(&self.out);
    }
}

/// Hands over one debugger at a time, and turns others away.
fn admit<R: Read + Send + 'static, W: Write + Send + 'static>(
    streams: impl Iterator<Item = (R, W)>,
    sender: &Sender<Link>,
) -> Option<()> {
    let busy = Arc::new(AtomicBool::new(false));
    for (from, out) in streams {
        if !busy.swap(true, Ordering::SeqCst) {
            match Link::new(from, Box::new(out), Some(Arc::clone(&busy))) {
                Ok(link) => sender.send(link).ok()?,
                // There can be no thread for it: it is turned away, and may come again.
                Err(_) => busy.store(false, Ordering::SeqCst),
            };
        }
    }
    None
}
