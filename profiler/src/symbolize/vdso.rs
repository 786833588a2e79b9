//! The vDSO's image: the kernel maps the same one into every 64-bit process, ours included.

use std::{fs::File, io, os::unix::fs::FileExt};

/// It is two pages on current kernels.
const MAX_SIZE: u64 = 1 << 20;

/// The bytes of our own vDSO.
///
/// # Errors
///
/// When there is none or it cannot be read.
pub fn image() -> io::Result<Vec<u8>> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let missing = || io::Error::new(io::ErrorKind::NotFound, "this process has no vDSO");
    let (start, end) = maps.lines().find_map(range).ok_or_else(missing)?;
    let size = end.checked_sub(start).filter(|size| *size <= MAX_SIZE).ok_or_else(missing)?;
    let mut image = vec![0; usize::try_from(size).map_err(io::Error::other)?];
    File::open("/proc/self/mem")?.read_exact_at(&mut image, start)?;
    Ok(image)
}

/// The addresses of a line of `maps`, when it is the vDSO's.
fn range(line: &str) -> Option<(u64, u64)> {
    let (start, end) = line.strip_suffix("[vdso]")?.split(' ').next()?.split_once('-')?;
    Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use object::{Object, ObjectSymbol};

    #[test]
    fn our_own_vdso_has_symbols() {
        let image = super::image().unwrap();
        let file = object::File::parse(&*image).unwrap();
        let has = |name| file.dynamic_symbols().any(|symbol| symbol.name() == Ok(name));
        assert!(has("__vdso_clock_gettime"));
    }
}
