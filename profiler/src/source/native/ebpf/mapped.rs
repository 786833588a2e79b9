//! The walker's tables in BPF maps: arrays that user space writes through mmap while the programs
//! read them.

use std::{
    marker::PhantomData,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use aya::{
    Pod,
    maps::{ArrayOfMaps, HashMap, MapData},
};
use aya_obj::generated::{BPF_F_MMAPABLE, bpf_map_type::BPF_MAP_TYPE_ARRAY};
use memmap2::{MmapOptions, MmapRaw};
use profiler_ebpf::wire::{
    MAX_WAYS, Mapping, PageRows, ProcessMappings, Row, Rule, SEGMENT_ROWS, Way,
};
use rustc_hash::FxHashMap;

use crate::source::native::tables::Storage;

/// An mmapable BPF array of `T`, one of the wire types.
struct MappedArray<T> {
    map: MapData,
    memory: MmapRaw,
    len: usize,
    values: PhantomData<T>,
}

impl<T: Copy> MappedArray<T> {
    /// Maps the whole array; `per_value` values of `T` make one value of the kernel's array.
    fn new(map: MapData, per_value: usize) -> anyhow::Result<Self> {
        let len = map.info()?.max_entries() as usize * per_value;
        let bytes = (len * size_of::<T>()).next_multiple_of(rustix::param::page_size());
        let memory = MmapOptions::new().len(bytes).map_raw(map.fd().as_fd().as_raw_fd())?;
        Ok(Self { map, memory, len, values: PhantomData })
    }

    fn slice(&self) -> &[T] {
        // SAFETY: the page-aligned mapping holds `len` values, wire types are valid for any bits,
        // and the kernel side only reads.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.len) }
    }

    fn slice_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and the borrow is unique in user space.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_mut_ptr().cast(), self.len) }
    }
}

/// The maps that [`MappedTables`] takes over.
pub struct TableMaps {
    /// `PAGES`.
    pub pages: MapData,
    /// `RULES`.
    pub rules: MapData,
    /// `MAPPINGS`.
    pub mappings: MapData,
    /// `SEGMENTS`.
    pub segments: ArrayOfMaps<MapData, MapData>,
    /// `PROCESSES`.
    pub processes: HashMap<MapData, u32, [u32; 2]>,
    /// `WAYS`.
    pub ways: HashMap<MapData, [u64; 2], KernelWay>,
}

/// A way as the kernel's map has it.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct KernelWay(Way);

// SAFETY: a wire type without padding, valid for any bits.
unsafe impl Pod for KernelWay {}

/// The tables in BPF maps.
pub struct MappedTables {
    pages: MappedArray<PageRows>,
    rules: MappedArray<Rule>,
    mappings: MappedArray<Mapping>,
    segments: Vec<MappedArray<Row>>,
    outer: ArrayOfMaps<MapData, MapData>,
    processes: HashMap<MapData, u32, [u32; 2]>,
    ways: HashMap<MapData, [u64; 2], KernelWay>,
    /// What is there.
    known: FxHashMap<[u64; 2], Way>,
}

impl MappedTables {
    /// Maps them.
    ///
    /// # Errors
    ///
    /// What the kernel answers to mmap and to the question for a map's size.
    pub fn new(maps: TableMaps) -> anyhow::Result<Self> {
        Ok(Self {
            pages: MappedArray::new(maps.pages, 1)?,
            rules: MappedArray::new(maps.rules, 1)?,
            mappings: MappedArray::new(maps.mappings, 1)?,
            segments: Vec::new(),
            outer: maps.segments,
            processes: maps.processes,
            ways: maps.ways,
            known: FxHashMap::default(),
        })
    }

    /// The row segments' maps.
    pub fn segment_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.segments.iter().map(|segment| segment.map.fd().as_fd())
    }
}

impl Storage for MappedTables {
    fn pages(&mut self) -> &mut [PageRows] {
        self.pages.slice_mut()
    }

    fn rules(&mut self) -> &mut [Rule] {
        self.rules.slice_mut()
    }

    fn mappings(&mut self) -> &mut [Mapping] {
        self.mappings.slice_mut()
    }

    fn segment(&mut self, number: usize) -> Option<&mut [Row]> {
        self.segments.get_mut(number).map(MappedArray::slice_mut)
    }

    fn add_segment(&mut self, number: usize) -> anyhow::Result<()> {
        let definition = aya_obj::Map::new_from_params(
            BPF_MAP_TYPE_ARRAY as u32,
            size_of::<u32>() as u32,
            (SEGMENT_ROWS * size_of::<Row>()) as u32,
            1,
            BPF_F_MMAPABLE,
        );
        let map = MapData::create(definition, "rows", None)?;
        self.outer.set(number as u32, &map, 0)?;
        self.segments.push(MappedArray::new(map, SEGMENT_ROWS)?);
        Ok(())
    }

    fn publish(&mut self, pid: u32, mappings: Option<ProcessMappings>) -> bool {
        match mappings {
            Some(ProcessMappings { first, len }) => {
                self.processes.insert(pid, [first, len], 0).is_ok()
            }
            // It is not there when it was never published.
            None => self.processes.remove(&pid).is_ok(),
        }
    }

    fn learn(&mut self, pid: u32, address: u64, way: Way) {
        let place = [u64::from(pid), address];
        if self.known.get(&place) == Some(&way) {
            return;
        }
        if self.known.len() >= MAX_WAYS && !self.known.contains_key(&place) {
            // What is still gone by comes up again.
            for (place, _) in self.known.drain() {
                // It is there.
                let _ = self.ways.remove(&place);
            }
        }
        // For want of memory it is not learned, and comes up again.
        if self.ways.insert(place, KernelWay(way), 0).is_ok() {
            self.known.insert(place, way);
        }
    }

    fn pages_ref(&self) -> &[PageRows] {
        self.pages.slice()
    }

    fn rules_ref(&self) -> &[Rule] {
        self.rules.slice()
    }

    fn segment_ref(&self, number: usize) -> Option<&[Row]> {
        self.segments.get(number).map(MappedArray::slice)
    }
}
