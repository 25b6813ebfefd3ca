//! Values that are words: in a file they are read as on the command line.

#![forbid(unsafe_code)]

/// Lets serde read values from the strings that `FromStr` reads.
macro_rules! from_string {
    ($($type:ty),*) => {$(
        impl TryFrom<String> for $type {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }
    )*};
}

pub(crate) use from_string;
