//! How what serde has no form for is stored with a machine's state.

/// Arrays of bytes of any length.
pub(crate) mod bytes {
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(crate) fn serialize<S: Serializer, const N: usize>(bytes: &[u8; N], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, const N: usize>(deserializer: D) -> Result<[u8; N], D::Error> {
        let bytes = <&[u8]>::deserialize(deserializer)?;
        bytes.try_into().map_err(|_| de::Error::invalid_length(bytes.len(), &"another number of bytes"))
    }
}

/// [`bytes`] in a box, if there are any.
pub(crate) mod maybe_bytes {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    pub(crate) fn serialize<S: Serializer, const N: usize>(
        bytes: &Option<Box<[u8; N]>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        bytes.as_ref().map(|bytes| bytes.as_slice()).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
        deserializer: D,
    ) -> Result<Option<Box<[u8; N]>>, D::Error> {
        let sized = |bytes: Vec<u8>| {
            let boxed = bytes.into_boxed_slice();
            boxed.try_into().map_err(|_| de::Error::custom("an array of another length"))
        };
        Option::<Vec<u8>>::deserialize(deserializer)?.map(sized).transpose()
    }
}

/// Arrays of words of any length.
pub(crate) mod words {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    pub(crate) fn serialize<S: Serializer, const N: usize>(words: &[u64; N], serializer: S) -> Result<S::Ok, S::Error> {
        words.as_slice().serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
        deserializer: D,
    ) -> Result<[u64; N], D::Error> {
        let words = Vec::deserialize(deserializer)?;
        words.try_into().map_err(|words: Vec<u64>| de::Error::invalid_length(words.len(), &"another number of words"))
    }
}

/// [`words`] in a box.
pub(crate) mod boxed_words {
    use super::words;
    use serde::{Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer, const N: usize>(words: &[u64; N], serializer: S) -> Result<S::Ok, S::Error> {
        words::serialize(words, serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
        deserializer: D,
    ) -> Result<Box<[u64; N]>, D::Error> {
        words::deserialize(deserializer).map(Box::new)
    }
}

/// Maps, in the order of their keys.
pub(crate) mod map {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::collections::{BTreeMap, HashMap};

    pub(crate) fn serialize<S: Serializer>(map: &HashMap<u64, usize>, serializer: S) -> Result<S::Ok, S::Error> {
        map.iter().collect::<BTreeMap<_, _>>().serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<HashMap<u64, usize>, D::Error> {
        HashMap::deserialize(deserializer)
    }
}
