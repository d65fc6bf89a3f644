//! Arrow's file format, read back.

use super::{Format, Table, bit, number, written};

/// A table of a FlatBuffer: the buffer, and where the table begins.
#[derive(Clone, Copy)]
struct Flat<'a>(&'a [u8], usize);

impl<'a> Flat<'a> {
    fn root(bytes: &'a [u8]) -> Self {
        assert_eq!(bytes.len() % 8, 0);
        Self(bytes, u32::from_le_bytes(number(bytes, 0)) as usize)
    }

    fn field(self, field: usize) -> Option<usize> {
        let list = (self.1 as i64 - i64::from(i32::from_le_bytes(number(self.0, self.1)))) as usize;
        let len = u16::from_le_bytes(number(self.0, list)) as usize;
        let place = if 4 + 2 * field < len { u16::from_le_bytes(number(self.0, list + 4 + 2 * field)) } else { 0 };
        (place > 0).then_some(self.1 + usize::from(place))
    }

    fn u8(self, field: usize) -> u8 {
        self.field(field).map_or(0, |at| self.0[at])
    }

    fn i64(self, field: usize) -> i64 {
        let Some(at) = self.field(field) else { return 0 };
        assert_eq!(at % 8, 0, "aligned");
        i64::from_le_bytes(number(self.0, at))
    }

    fn follow(self, field: usize) -> Option<usize> {
        let at = self.field(field)?;
        Some(at + u32::from_le_bytes(number(self.0, at)) as usize)
    }

    fn table(self, field: usize) -> Option<Self> {
        Some(Self(self.0, self.follow(field)?))
    }

    fn tables(self, field: usize) -> Vec<Self> {
        let Some(at) = self.follow(field) else { return Vec::new() };
        let len = u32::from_le_bytes(number(self.0, at)) as usize;
        let place = |index: usize| at + 4 + 4 * index;
        (0..len)
            .map(|index| Self(self.0, place(index) + u32::from_le_bytes(number(self.0, place(index))) as usize))
            .collect()
    }

    /// A vector of structures of `N` words.
    fn words<const N: usize>(self, field: usize) -> Vec<[i64; N]> {
        let at = self.follow(field).expect("a vector");
        assert_eq!((at + 4) % 8, 0, "aligned");
        let len = u32::from_le_bytes(number(self.0, at)) as usize;
        let word = |index: usize| i64::from_le_bytes(number(self.0, at + 4 + 8 * index));
        (0..len).map(|row| std::array::from_fn(|of| word(row * N + of))).collect()
    }

    fn text(self, field: usize) -> String {
        let at = self.follow(field).expect("a text");
        let len = u32::from_le_bytes(number(self.0, at)) as usize;
        assert_eq!(self.0[at + 4 + len], 0);
        String::from_utf8(self.0[at + 4..at + 4 + len].to_vec()).expect("text")
    }
}

/// A message that the footer knows: its kind, what it says, and its body.
fn message<'a>(file: &'a [u8], [at, head, body]: [i64; 3]) -> (u8, Flat<'a>, &'a [u8]) {
    let (at, head) = (at as usize, head as u32 as usize);
    assert_eq!((at % 8, head % 8, &file[at..at + 4]), (0, 0, &[0xff; 4][..]));
    assert_eq!(u32::from_le_bytes(number(file, at + 4)) as usize, head - 8);
    let message = Flat::root(&file[at + 8..at + head]);
    assert_eq!(message.i64(3), body);
    (message.u8(1), message.table(2).expect("a header"), &file[at + head..at + head + body as usize])
}

/// The columns' cells of a batch: for each, its nulls and its further buffers.
fn buffers(batch: Flat<'_>, body: &[u8]) -> Vec<Vec<u8>> {
    assert_eq!(batch.table(3).expect("compression").u8(0), 1);
    let plain = |[at, len]: [i64; 2]| {
        assert_eq!(at % 8, 0);
        if len == 0 {
            return Vec::new();
        }
        let packed = &body[at as usize..(at + len) as usize];
        let size = i64::from_le_bytes(number(packed, 0)) as usize;
        zstd::bulk::decompress(&packed[8..], size).expect("zstd")
    };
    batch.words::<2>(2).into_iter().map(plain).collect()
}

fn texts(offsets: &[u8], all: &[u8], len: usize) -> Vec<String> {
    let offset = |at: usize| i32::from_le_bytes(number(offsets, at * 4)) as usize;
    (0..len).map(|at| String::from_utf8(all[offset(at)..offset(at + 1)].to_vec()).expect("text")).collect()
}

fn read(file: &[u8]) -> (Vec<String>, Table) {
    assert!(file.starts_with(b"ARROW1\0\0") && file.ends_with(b"ARROW1"));
    let end = file.len() - 10;
    let len = u32::from_le_bytes(number(file, end)) as usize;
    let footer = Flat::root(&file[end - len..end]);
    let fields = footer.table(1).expect("a schema").tables(1);
    let mut words: Vec<Vec<String>> = vec![Vec::new(); fields.len()];
    for place in footer.words::<3>(2) {
        let (kind, header, body) = message(file, place);
        assert_eq!(kind, 2);
        let at = header.i64(0) as usize;
        assert_eq!(header.u8(2) == 1, !words[at].is_empty(), "only further words are a delta");
        let batch = header.table(1).expect("words");
        let found = buffers(batch, body);
        words[at].extend(texts(&found[1], &found[2], batch.i64(0) as usize));
    }
    let mut table: Table = vec![Vec::new(); fields.len()];
    for place in footer.words::<3>(3) {
        let (kind, batch, body) = message(file, place);
        assert_eq!(kind, 3);
        let (len, nodes) = (batch.i64(0) as usize, batch.words::<2>(1));
        let mut buffers = buffers(batch, body).into_iter();
        let mut next = || buffers.next().expect("a buffer");
        for (at, (field, [rows, nulls])) in fields.iter().zip(nodes).enumerate() {
            let (valid, data) = (next(), next());
            let signed = field.table(3).is_some_and(|kind| kind.u8(1) == 1);
            let cells: Vec<String> = match (field.u8(2), field.table(4)) {
                (5, Some(_)) => {
                    let key = |row: usize| i32::from_le_bytes(number(&data, row * 4)) as usize;
                    (0..len).map(|row| words[at].get(key(row)).cloned().unwrap_or_default()).collect()
                }
                (5, None) => texts(&data, &next(), len),
                (2, _) if signed => {
                    (0..len).map(|row| i64::from_le_bytes(number(&data, row * 8)).to_string()).collect()
                }
                (2, _) => (0..len).map(|row| u64::from_le_bytes(number(&data, row * 8)).to_string()).collect(),
                (3, _) => (0..len).map(|row| f64::from_le_bytes(number(&data, row * 8)).to_string()).collect(),
                (6, _) => (0..len).map(|row| bit(&data, row).to_string()).collect(),
                (other, _) => panic!("type {other}"),
            };
            let is_valid = |row: usize| valid.is_empty() || bit(&valid, row);
            assert_eq!((rows, nulls), (len as i64, (0..len).filter(|&row| !is_valid(row)).count() as i64));
            let cells = cells.into_iter().enumerate();
            table[at].extend(cells.map(|(row, cell)| if is_valid(row) { cell } else { "-".into() }));
        }
        assert!(buffers.next().is_none());
    }
    (fields.iter().map(|field| field.text(0)).collect(), table)
}

#[test]
fn what_is_written_is_read() {
    for groups in [&[][..], &[1], &[100, 1, 20_000], &[70_000; 2]] {
        let (file, want) = written(Format::Arrow, groups);
        let (names, got) = read(&file);
        assert_eq!(names, ["event", "signed", "bits", "flag", "float", "word", "text", "nothing", "many"]);
        assert!(got == want, "{groups:?}");
        assert!(written(Format::Arrow, groups).0 == file, "equal rows give equal bytes");
    }
}
