//! Fields of input objects, read into one fixed array of raw slices.

use std::ops::Range;

/// Declares an enum of the fields that are read, object by object: `Variant = "key"`.
///
/// The values of an object are then kept in an array that the enum indexes, so reading one
/// allocates nothing, and a key repeated in the input overwrites its slot: the last counts.
macro_rules! fields {
    ($(#[$doc:meta])* $name:ident { $($object:ident { $($field:ident = $key:literal,)* })* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum $name { $($($field,)*)* }

        impl $name {
            /// How many there are.
            pub(super) const COUNT: usize = [$($($name::$field,)*)*].len();

            $(
                #[doc = concat!("The field of the object `", stringify!($object), "` with this key.")]
                fn $object(key: &str) -> Option<Self> {
                    match key {
                        $($key => Some(Self::$field),)*
                        _ => None,
                    }
                }
            )*
        }
    };
}
pub(super) use fields;

/// The raw values of one object's fields; a missing one is `None`.
#[derive(Clone, Debug)]
pub(super) struct Values<'a, const COUNT: usize>([Option<&'a str>; COUNT]);

impl<'a, const COUNT: usize> Values<'a, COUNT> {
    pub(super) const fn new() -> Self {
        Self([None; COUNT])
    }

    pub(super) fn at(&self, index: usize) -> Option<&'a str> {
        self.0.get(index).copied().flatten()
    }

    pub(super) fn set(&mut self, index: usize, raw: &'a str) {
        if let Some(slot) = self.0.get_mut(index) {
            *slot = Some(raw);
        }
    }

    pub(super) fn clear(&mut self, range: Range<usize>) {
        if let Some(slots) = self.0.get_mut(range) {
            slots.fill(None);
        }
    }
}
