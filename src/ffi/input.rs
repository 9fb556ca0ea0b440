//! What comes from the caller: text, arrays, structs and places to write to, each checked before it is used.

use crate::error::{Error, Result, Status, Unit, reserved};
use crate::limits;
use std::ffi::{CStr, c_char};
use std::mem::{self, MaybeUninit};
use std::path::Path;
use std::time::Duration;

/// A struct that the caller owns and that may be older or newer than this library.
///
/// # Safety
/// `repr(C)`, begins with `u32 struct_size`, and every bit pattern is a valid value.
pub(super) unsafe trait CallerStruct: Copy {
    /// Its name in the header.
    const NAME: &'static str;
    /// The sizes it had, from that of ABI 1, below which no program can hold one, to its own.
    const SIZES: &'static [usize] = &[mem::size_of::<Self>()];
    /// What fields have that the caller's version lacks.
    fn defaults() -> Self {
        zeroed()
    }
}

/// A struct of zeros and NULLs but for its size.
pub(super) fn zeroed<T: CallerStruct>() -> T {
    // SAFETY: by the trait's promise all zero bytes are a value.
    unsafe { mem::zeroed() }
}

/// A copy of the caller's struct; fields the caller's version lacks have their defaults.
///
/// # Safety
/// `pointer` is NULL or points to a `T` (of any version) as long as its `struct_size` says.
pub(super) unsafe fn read_struct<T: CallerStruct>(pointer: *const T) -> Result<T> {
    check_pointer(pointer, T::NAME)?;
    // SAFETY: aligned, not NULL, and the trait says that a u32 is first.
    let size = unsafe { pointer.cast::<u32>().read() } as usize;
    check_size::<T>(size)?;
    let known = mem::size_of::<T>();
    let mut value = T::defaults();
    // SAFETY: both sides have `min(size, known)` bytes; any bit pattern is a valid `T`.
    unsafe { pointer.cast::<u8>().copy_to_nonoverlapping((&raw mut value).cast(), size.min(known)) };
    if size > known {
        // SAFETY: the caller's struct is `size` bytes long.
        let tail = unsafe { std::slice::from_raw_parts(pointer.cast::<u8>().add(known), size - known) };
        if tail.iter().any(|byte| *byte != 0) {
            return Err(struct_size::<T>(
                format!(
                    "{} has {size} bytes and sets fields beyond the {known} this library knows; leave them 0 or use a newer library",
                    T::NAME
                ),
                size,
            ));
        }
    }
    Ok(value)
}

/// The caller's options; NULL is the defaults.
///
/// # Safety
/// As for [`read_struct`].
pub(super) unsafe fn read_options<T: CallerStruct>(pointer: *const T) -> Result<T> {
    // SAFETY: as promised by the caller.
    if pointer.is_null() { Ok(T::defaults()) } else { unsafe { read_struct(pointer) } }
}

/// Fills the caller's struct as far as both sides know it, and says in `struct_size` how far that is.
///
/// # Safety
/// As for [`read_struct`], and writable.
pub(super) unsafe fn write_struct<T: CallerStruct>(pointer: *mut T, value: &T) -> Result<()> {
    // SAFETY: checked by `size_to_write`.
    let filled = unsafe { size_to_write(pointer) }?;
    // SAFETY: both sides have `filled` bytes.
    unsafe { (&raw const *value).cast::<u8>().copy_to_nonoverlapping(pointer.cast(), filled) };
    // SAFETY: the trait says that a u32 is first. `filled` is at most the size of a struct.
    unsafe { pointer.cast::<u32>().write(u32::try_from(filled).unwrap_or(0)) };
    Ok(())
}

/// Checks a struct that is to be filled, before anything else is done; returns the bytes that both sides know.
///
/// # Safety
/// As for [`read_struct`].
pub(super) unsafe fn size_to_write<T: CallerStruct>(pointer: *const T) -> Result<usize> {
    check_pointer(pointer, T::NAME)?;
    // SAFETY: aligned, not NULL, and the trait says that a u32 is first.
    let size = unsafe { pointer.cast::<u32>().read() } as usize;
    check_size::<T>(size)?;
    Ok(size.min(mem::size_of::<T>()))
}

/// The `_init` functions: gives all `size` bytes of the caller's struct their defaults. A size that the struct never had is
/// not that of any header: then what the caller holds is something else, or newer than this library.
///
/// # Safety
/// `pointer` is NULL or points to `size` writable bytes.
pub(super) unsafe fn init_struct<T: CallerStruct>(pointer: *mut T, size: usize) -> Result<()> {
    check_pointer(pointer, T::NAME)?;
    check_size::<T>(size)?;
    if !T::SIZES.contains(&size) {
        let (name, sizes) = (T::NAME, T::SIZES);
        let message = format!(
            "size of {name} is {size}; it had {sizes:?} bytes: pass its sizeof, or use the library of that header"
        );
        return Err(struct_size::<T>(message, size));
    }
    let value = T::defaults();
    // SAFETY: the caller's struct has `size` bytes, this library's has as many as are copied.
    unsafe {
        pointer.cast::<u8>().write_bytes(0, size);
        (&raw const value).cast::<u8>().copy_to_nonoverlapping(pointer.cast(), size.min(mem::size_of::<T>()));
        // `check_size` bounds `size` far below u32.
        pointer.cast::<u32>().write(u32::try_from(size).unwrap_or(0));
    }
    Ok(())
}

fn check_size<T: CallerStruct>(size: usize) -> Result<()> {
    let name = T::NAME;
    if size == 0 {
        let init = "set it to sizeof, or call the _init function, before the struct is passed";
        return Err(struct_size::<T>(format!("struct_size of {name} is 0; {init}"), size));
    }
    let first = T::SIZES.first().copied().unwrap_or(mem::size_of::<T>());
    if size < first {
        return Err(struct_size::<T>(
            format!("struct_size of {name} is {size}, smaller than its first version with {first} bytes"),
            size,
        ));
    }
    if size < mem::size_of::<T>() && !T::SIZES.contains(&size) {
        let sizes = T::SIZES;
        return Err(struct_size::<T>(format!("struct_size of {name} is {size}; it had {sizes:?} bytes so far"), size));
    }
    if size > limits::STRUCT_BYTES_MAX {
        return Err(struct_size::<T>(
            format!("struct_size of {name} is {size}, larger than any version may be ({})", limits::STRUCT_BYTES_MAX),
            size,
        ));
    }
    Ok(())
}

fn struct_size<T: CallerStruct>(message: String, size: usize) -> Error {
    Error::new(Status::StructSize, message).about(T::NAME).numbers(Unit::Bytes, mem::size_of::<T>() as u64, size as u64)
}

fn check_pointer<T>(pointer: *const T, name: &str) -> Result<()> {
    if pointer.is_null() {
        return Err(Error::argument(format!("{name} is NULL")).about(name));
    }
    if !pointer.is_aligned() {
        return Err(Error::argument(format!("{name} is not aligned to {} bytes", mem::align_of::<T>())).about(name));
    }
    Ok(())
}

/// A place to write a result to.
///
/// # Safety
/// `pointer` is NULL or points to a writable `T` that lives for `'a`.
pub(super) unsafe fn out<'a, T>(pointer: *mut T, name: &str) -> Result<&'a mut MaybeUninit<T>> {
    check_pointer(pointer, name)?;
    // SAFETY: aligned, not NULL, writable by the caller's promise; a MaybeUninit may hold anything.
    Ok(unsafe { &mut *pointer.cast() })
}

/// A place for a result that the caller may do without: NULL is none.
///
/// # Safety
/// As for [`out`].
pub(super) unsafe fn optional_out<'a, T>(pointer: *mut T, name: &str) -> Result<Option<&'a mut MaybeUninit<T>>> {
    // SAFETY: as promised by the caller.
    if pointer.is_null() { Ok(None) } else { unsafe { out(pointer, name) }.map(Some) }
}

/// An array of at most `max` elements; NULL only with a length of 0.
///
/// # Safety
/// `pointer` is NULL or points to `count` readable elements that live for `'a`.
pub(super) unsafe fn array<'a, T>(
    pointer: *const T,
    count: usize,
    max: usize,
    unit: Unit,
    name: &str,
) -> Result<&'a [T]> {
    if count == 0 {
        return Ok(&[]);
    }
    if pointer.is_null() {
        return Err(Error::argument(format!("{name} is NULL with a length of {count}")).about(name));
    }
    check_pointer(pointer, name)?;
    if count > max {
        return Err(Error::argument(format!("{name} has a length of {count}; at most {max} is allowed"))
            .about(name)
            .numbers(unit, count as u64, max as u64));
    }
    // SAFETY: aligned, not NULL, `count` elements by the caller's promise, and the limits keep it below isize::MAX.
    Ok(unsafe { std::slice::from_raw_parts(pointer, count) })
}

/// Text given as pointer and length.
///
/// # Safety
/// As for [`array`].
pub(super) unsafe fn text<'a>(pointer: *const c_char, len: usize, max: usize, name: &str) -> Result<&'a str> {
    // SAFETY: as promised by the caller.
    let bytes = unsafe { array(pointer.cast::<u8>(), len, max, Unit::Bytes, name) }?;
    utf8(bytes, name)
}

/// Text that ends with a NUL.
///
/// # Safety
/// `pointer` is NULL or points to a NUL-terminated string that lives for `'a`.
pub(super) unsafe fn c_string<'a>(pointer: *const c_char, name: &str) -> Result<&'a str> {
    check_pointer(pointer, name)?;
    // SAFETY: NUL-terminated by the caller's promise.
    utf8(unsafe { CStr::from_ptr(pointer) }.to_bytes(), name)
}

/// The path of a `what`.
///
/// # Safety
/// As for [`c_string`].
pub(super) unsafe fn path<'a>(pointer: *const c_char, name: &str, what: &str) -> Result<&'a Path> {
    // SAFETY: as promised by the caller.
    let path = unsafe { c_string(pointer, name) }?;
    if path.is_empty() {
        return Err(Error::argument(format!("{name} is empty; pass the path of a {what}")).about(name));
    }
    Ok(Path::new(path))
}

fn utf8<'a>(bytes: &'a [u8], name: &str) -> Result<&'a str> {
    std::str::from_utf8(bytes).map_err(|e| {
        let at = e.valid_up_to();
        let found = bytes.get(at).copied().unwrap_or(0);
        Error::new(Status::Utf8, format!("{name} is not valid UTF-8 at byte {at} (0x{found:02x}); convert it first"))
            .about(name)
    })
}

/// A copy that says so when there is no memory for it.
pub(super) fn copy(text: &str, name: &str) -> Result<String> {
    let mut copied = String::new();
    copied.try_reserve_exact(text.len()).map_err(|_| Error::memory(name, text.len() as u64))?;
    copied.push_str(text);
    Ok(copied)
}

/// A token id; whether the model has it is the engine's to say.
pub(super) fn token(token: i32, name: &str) -> Result<u32> {
    u32::try_from(token)
        .map_err(|_| Error::argument(format!("{name} is {token}; token ids are not negative")).about(name))
}

/// Token ids.
pub(super) fn tokens(given: &[i32], name: &str) -> Result<Vec<u32>> {
    let mut copied = reserved(name, given.len())?;
    for (index, id) in given.iter().enumerate() {
        copied.push(u32::try_from(*id).map_err(|_| {
            Error::argument(format!("{name}[{index}] is {id}; token ids are not negative")).about(name)
        })?);
    }
    Ok(copied)
}

/// `timeout_ms`: -1 is forever (`None`).
pub(super) fn timeout(ms: i32, name: &str) -> Result<Option<Duration>> {
    match ms {
        -1 => Ok(None),
        _ => u64::try_from(ms).map(|ms| Some(Duration::from_millis(ms))).map_err(|_| {
            Error::argument(format!("{name} is {ms}; use milliseconds, 0 to poll, or -1 for no limit")).about(name)
        }),
    }
}

/// Refuses flag bits outside `known`.
pub(super) fn flags(given: u32, known: u32, name: &str) -> Result<()> {
    if given & !known == 0 {
        return Ok(());
    }
    Err(Error::argument(format!("{name} has unknown bits 0x{:x}; known here are 0x{known:x}", given & !known))
        .about(name))
}
