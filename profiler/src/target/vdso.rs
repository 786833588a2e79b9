//! The vDSO: a small ELF image that the kernel maps into every process, the same in all of them.

use std::{fs::File, io, os::unix::fs::FileExt as _};

/// The most bytes that an image may have; it is one or two pages today.
const MAX_IMAGE: u64 = 1 << 20;

/// The image, read from this process's own memory.
///
/// # Errors
///
/// NotFound: this process has none (the kernel runs with `vdso=0`).
pub fn image() -> io::Result<Vec<u8>> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let line = maps.lines().find(|line| line.ends_with("[vdso]"));
    let range = line.and_then(|line| line.split(' ').next()?.split_once('-'));
    let parse = |text: &str| u64::from_str_radix(text, 16).ok();
    let (start, end) = range
        .and_then(|(start, end)| Some((parse(start)?, parse(end)?)))
        .filter(|(start, end)| end > start && end - start <= MAX_IMAGE)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "this process has no vDSO"))?;
    let mut image = vec![0; (end - start) as usize];
    File::open("/proc/self/mem")?.read_exact_at(&mut image, start)?;
    Ok(image)
}

#[cfg(test)]
mod tests {
    use object::{Object as _, ObjectSymbol as _};

    #[test]
    fn the_image_is_an_elf_file_with_symbols() {
        let image = super::image().unwrap();
        assert!(image.starts_with(b"\x7fELF"));
        let file = object::File::parse(&*image).unwrap();
        let has = |name| file.dynamic_symbols().any(|symbol| symbol.name() == Ok(name));
        assert!(has("__vdso_clock_gettime"));
    }
}
