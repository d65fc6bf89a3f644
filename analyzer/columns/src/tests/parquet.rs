//! Parquet, read back.

use super::{Format, Table, bit, number, with_nulls, written};
use crate::bits::read::{deltas, hybrid, unzigzag, varint};
use std::collections::BTreeMap;

/// A value of Thrift's compact protocol.
#[derive(Debug)]
enum Thrift {
    Number(i64),
    Bytes(Vec<u8>),
    List(Vec<Thrift>),
    Struct(BTreeMap<i64, Thrift>),
}

impl Thrift {
    fn at(&self, field: i64) -> &Thrift {
        let Self::Struct(fields) = self else { panic!("no structure: {self:?}") };
        fields.get(&field).unwrap_or_else(|| panic!("no field {field}"))
    }

    fn has(&self, field: i64) -> bool {
        matches!(self, Self::Struct(fields) if fields.contains_key(&field))
    }

    fn number(&self, field: i64) -> i64 {
        let Self::Number(number) = self.at(field) else { panic!("no number") };
        *number
    }

    fn bytes(&self, field: i64) -> &[u8] {
        let Self::Bytes(bytes) = self.at(field) else { panic!("no bytes") };
        bytes
    }

    fn list(&self, field: i64) -> &[Thrift] {
        let Self::List(list) = self.at(field) else { panic!("no list") };
        list
    }
}

fn thrift(kind: u8, bytes: &mut &[u8]) -> Thrift {
    let mut take = |count: usize| {
        let (taken, rest) = bytes.split_at(count);
        *bytes = rest;
        taken.to_vec()
    };
    match kind {
        1 | 2 => Thrift::Number((kind == 1).into()),
        3 => Thrift::Number(take(1)[0].cast_signed().into()),
        4..=6 => Thrift::Number(unzigzag(varint(bytes))),
        8 => {
            let len = varint(bytes) as usize;
            let (taken, rest) = bytes.split_at(len);
            *bytes = rest;
            Thrift::Bytes(taken.to_vec())
        }
        9 => {
            let head = take(1)[0];
            let len = if head >> 4 == 15 { varint(bytes) } else { (head >> 4).into() };
            Thrift::List((0..len).map(|_| thrift(head & 15, bytes)).collect())
        }
        12 => {
            let (mut fields, mut last) = (BTreeMap::new(), 0);
            loop {
                let (&head, rest) = bytes.split_first().expect("a field");
                *bytes = rest;
                if head == 0 {
                    return Thrift::Struct(fields);
                }
                last = if head >> 4 == 0 { unzigzag(varint(bytes)) } else { last + i64::from(head >> 4) };
                fields.insert(last, thrift(head & 15, bytes));
            }
        }
        other => panic!("type {other}"),
    }
}

/// A page: its head and what it holds.
fn page(bytes: &mut &[u8]) -> (Thrift, Vec<u8>) {
    let head = thrift(12, bytes);
    let (packed, rest) = bytes.split_at(head.number(3) as usize);
    *bytes = rest;
    let plain = zstd::bulk::decompress(packed, head.number(2) as usize).expect("zstd");
    assert_eq!(plain.len() as i64, head.number(2));
    (head, plain)
}

/// Values one behind another, as the schema's element says.
fn plain(element: &Thrift, mut bytes: &[u8], count: usize) -> Vec<String> {
    let signed = !element.has(6) || element.number(6) != 14;
    (0..count)
        .map(|at| match element.number(1) {
            0 => bit(bytes, at).to_string(),
            2 if signed => i64::from_le_bytes(number(bytes, at * 8)).to_string(),
            2 => u64::from_le_bytes(number(bytes, at * 8)).to_string(),
            5 => f64::from_le_bytes(number(bytes, at * 8)).to_string(),
            _ => {
                let len = u32::from_le_bytes(number(bytes, 0)) as usize;
                let text = String::from_utf8(bytes[4..4 + len].to_vec()).expect("text");
                bytes = &bytes[4 + len..];
                text
            }
        })
        .collect()
}

fn column(file: &[u8], element: &Thrift, chunk: &Thrift) -> Vec<String> {
    let about = chunk.at(3);
    let start = if about.has(11) { about.number(11) } else { about.number(9) } as usize;
    let mut bytes = &file[start..start + about.number(7) as usize];
    let dictionary = about.has(11).then(|| {
        let (head, values) = page(&mut bytes);
        assert_eq!((head.number(1), head.at(7).number(2)), (2, 0));
        assert_eq!(
            file.len() - bytes.len() - (file.len() - start - about.number(7) as usize),
            about.number(9) as usize
        );
        plain(element, &values, head.at(7).number(1) as usize)
    });
    let (head, data) = page(&mut bytes);
    assert!(bytes.is_empty() && head.number(1) == 0);
    let rows = head.at(5).number(1) as usize;
    assert_eq!(about.number(5), rows as i64);
    let (mut valid, mut data) = (vec![true; rows], &data[..]);
    if element.number(3) == 1 {
        let len = u32::from_le_bytes(number(data, 0)) as usize;
        valid = hybrid(&data[4..4 + len], 1, rows).into_iter().map(|level| level == 1).collect();
        data = &data[4 + len..];
    }
    let count = valid.iter().filter(|valid| **valid).count();
    assert_eq!(about.at(12).number(3), (rows - count) as i64);
    let values = match (head.at(5).number(2), dictionary) {
        (0, None) => plain(element, data, count),
        (5, None) => deltas(data).iter().map(|value| value.cast_signed().to_string()).collect(),
        (8, Some(words)) => {
            hybrid(&data[1..], data[0].into(), count).into_iter().map(|key| words[key as usize].clone()).collect()
        }
        other => panic!("coded as {other:?}"),
    };
    // The least and the greatest are among the values, and no number lies without.
    if about.at(12).has(5) {
        let [most, least] = [5, 6].map(|field| about.at(12).bytes(field));
        let shown = |bytes: &[u8]| match element.number(1) {
            6 => String::from_utf8(bytes.to_vec()).expect("text"),
            _ => plain(element, bytes, 1).remove(0),
        };
        let (least, most) = (shown(least), shown(most));
        assert!(values.contains(&least) && values.contains(&most));
        if let (Ok(least), Ok(most)) = (least.parse::<i128>(), most.parse::<i128>()) {
            assert!(
                values.iter().all(|value| value.parse::<i128>().is_ok_and(|value| (least..=most).contains(&value)))
            );
        }
    }
    with_nulls(&valid, values)
}

fn read(file: &[u8]) -> (Vec<String>, Table) {
    assert!(file.starts_with(b"PAR1") && file.ends_with(b"PAR1"));
    let len = u32::from_le_bytes(number(file, file.len() - 8)) as usize;
    let footer = thrift(12, &mut &file[file.len() - 8 - len..file.len() - 8]);
    let schema = &footer.list(2)[1..];
    let mut table: Table = vec![Vec::new(); schema.len()];
    for group in footer.list(4) {
        for ((all, element), chunk) in table.iter_mut().zip(schema).zip(group.list(1)) {
            all.extend(column(file, element, chunk));
        }
        assert!(table.iter().all(|column| column.len() == table[0].len()));
    }
    assert_eq!(footer.number(3), table[0].len() as i64);
    let name = |element: &Thrift| String::from_utf8(element.bytes(4).to_vec()).expect("text");
    (schema.iter().map(name).collect(), table)
}

#[test]
fn what_is_written_is_read() {
    for groups in [&[][..], &[1], &[100, 1, 20_000], &[70_000; 2]] {
        let (file, want) = written(Format::Parquet, groups);
        let (names, got) = read(&file);
        assert_eq!(names, ["event", "signed", "bits", "flag", "float", "word", "text", "nothing", "many"]);
        assert!(got == want, "{groups:?}");
        assert!(written(Format::Parquet, groups).0 == file, "equal rows give equal bytes");
    }
}
