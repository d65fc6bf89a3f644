//! How sets of bits are stored with a machine's state: as the number that they are.

/// Gives sets of bits their stored form. A bit that has no name is kept.
macro_rules! stored_as_bits {
    ($($name:ident as $bits:ty),* $(,)?) => {
        $(impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.bits().serialize(serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                <$bits>::deserialize(deserializer).map(Self::from_bits_retain)
            }
        })*
    };
}

pub(crate) use stored_as_bits;
