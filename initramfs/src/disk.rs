//! Block devices: which partition a word means, and reading of them. GPTs are read from the disks themselves; the kernel is asked only
//! which device a partition's number is. Never writes to one: that is `widen`'s.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::cmdline::Where;
use crate::failure::{Doing, Done, Failure};
use crate::gpt::{Broken, Header, Partition};
use crate::widen::Table;

const SYS: &str = "/sys/class/block";
/// The kernel is asked again that often for a device that is not there yet.
const AGAIN: Duration = Duration::from_millis(5);

/// A partition, or a whole device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its name below /dev.
    pub name: String,
    /// The disk it is on: its own name if it is one.
    pub disk: String,
}

impl Block {
    /// Below /dev.
    pub fn path(&self) -> String {
        format!("/dev/{}", self.name)
    }

    /// `major:minor`.
    pub fn number(&self) -> Done<String> {
        let file = format!("{SYS}/{}/dev", self.name);
        fs::read_to_string(&file).map(|t| t.trim().to_owned()).doing(|| format!("read {file}"))
    }

    /// Bytes.
    pub fn size_bytes(&self) -> Done<u64> {
        let sectors = number(&Path::new(SYS).join(&self.name).join("size"));
        sectors.map(|n| n * 512).ok_or_else(|| Failure::new(format!("read the size of {}", self.path()), "the kernel does not tell"))
    }

    /// So many bytes from there.
    pub fn read(&self, at: u64, bytes: usize) -> Done<Vec<u8>> {
        let mut buffer = vec![0; bytes];
        let read = File::open(self.path()).and_then(|f| f.read_exact_at(&mut buffer, at));
        read.map(|()| buffer).doing(|| format!("read {bytes} bytes at {at} of {}", self.path()))
    }
}

/// The disks of this machine, each table read once.
#[derive(Default)]
pub struct Disks {
    tables: Vec<(String, Read)>,
}

/// A disk's table, the first or its copy, or why there is none.
type Read = Result<Rc<Table>, String>;

impl Disks {
    /// Waits for what a word means; `near` is the disk that wins where several disks have it.
    pub fn find(&mut self, place: &Where, near: Option<&str>, wait: Duration) -> Done<Block> {
        let until = Instant::now() + wait;
        loop {
            let (found, seen) = self.look(place, near);
            match found {
                Ok(Some(block)) => return Ok(block),
                Ok(None) if Instant::now() < until => {
                    std::thread::sleep(AGAIN);
                    self.tables.clear();
                }
                Ok(None) => {
                    return Err(Failure::new(format!("find {}", words(place)), format!("not there after {} s; {seen}", wait.as_secs())));
                }
                Err(why) => return Err(why),
            }
        }
    }

    /// The partition of that name beside this one, if there is one now.
    pub fn beside(&mut self, block: &Block, name: &str) -> Option<Block> {
        let table = self.table(&block.disk).ok()?;
        device(&block.disk, table.partitions.iter().find(|p| p.name == name)?)
    }

    /// The table a partition is in, and its row there. `None` for a whole disk and for what the kernel sees otherwise.
    pub fn partition_of(&mut self, block: &Block) -> Option<(Rc<Table>, Partition)> {
        let table = self.table(&block.disk).ok()?;
        let mine = table.partitions.iter().find(|p| device(&block.disk, p).as_ref() == Some(block))?.clone();
        Some((table, mine))
    }

    fn table(&mut self, disk: &str) -> Read {
        if let Some((_, read)) = self.tables.iter().find(|(name, _)| name == disk) {
            return read.clone();
        }
        let read = table(disk).map(Rc::new);
        self.tables.push((disk.to_owned(), read.clone()));
        read
    }

    /// One look, and what there is instead.
    fn look(&mut self, place: &Where, near: Option<&str>) -> (Done<Option<Block>>, String) {
        let wanted = |p: &Partition| match place {
            Where::Label(name) => p.name == *name,
            Where::Uuid(id) => p.uuid == *id,
            Where::Device(_) | Where::Tmpfs => false,
        };
        if let Where::Device(path) = place {
            let name = path.strip_prefix("/dev/").unwrap_or(path);
            let there = Path::new(SYS).join(name).exists() && Path::new(path).exists();
            return (Ok(there.then(|| Block { name: name.into(), disk: disk_of(name) })), format!("disks: {}", disks().join(" ")));
        }
        let (mut found, mut seen) = (Vec::new(), Vec::new());
        for disk in disks() {
            match self.table(&disk) {
                Ok(table) => {
                    let names: Vec<_> = table.partitions.iter().map(|p| p.name.as_str()).collect();
                    seen.push(format!("{disk} has {}", names.join(", ")));
                    found.extend(table.partitions.iter().filter(|p| wanted(p)).filter_map(|p| device(&disk, p)));
                }
                Err(why) => seen.push(format!("{disk}: {why}")),
            }
        }
        if let Some(mine) = found.iter().find(|b| near == Some(b.disk.as_str())) {
            return (Ok(Some(mine.clone())), String::new());
        }
        let answer = match found.as_slice() {
            [a, b, ..] => Err(Failure::new(
                format!("find {}", words(place)),
                format!("{} and {} are both that; say which with /dev/…", a.path(), b.path()),
            )),
            [one] => Ok(Some(one.clone())),
            [] => Ok(None),
        };
        (answer, if seen.is_empty() { "no disk at all: is its driver in /etc/modules?".into() } else { seen.join("; ") })
    }
}

/// As a person would name it.
pub fn words(place: &Where) -> String {
    match place {
        Where::Label(name) => format!("partition `{name}`"),
        Where::Uuid(id) => format!("partition with UUID {id}"),
        Where::Device(path) => path.clone(),
        Where::Tmpfs => "a tmpfs".into(),
    }
}

/// Whole disks that can carry a table, in order.
fn disks() -> Vec<String> {
    let entries = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let names = entries.filter_map(|e| e.file_name().into_string().ok());
    let mut disks: Vec<_> = names.filter(|n| !["ram", "zram", "dm-", "nbd", "fd", "sr"].iter().any(|no| n.starts_with(no))).collect();
    disks.retain(|d| number(&Path::new(SYS).join(d).join("size")).is_some_and(|n| n > 0));
    disks.sort();
    disks
}

fn disk_of(name: &str) -> String {
    let link = fs::canonicalize(Path::new(SYS).join(name)).unwrap_or_default();
    let partition = link.join("partition").exists();
    let disk = if partition { link.parent().map(Path::to_path_buf).unwrap_or_default() } else { link };
    disk.file_name().map_or_else(|| name.to_owned(), |n| n.to_string_lossy().into_owned())
}

/// A disk's table: the first, else the copy at its end.
fn table(disk: &str) -> Result<Table, String> {
    let (block, blocks) = geometry(disk);
    let file = File::open(format!("/dev/{disk}")).map_err(|_| "cannot be opened".to_owned())?;
    let first = read(&file, block, blocks, 1);
    if let Ok(Ok(table)) = first {
        return Ok(table);
    }
    match (first, read(&file, block, blocks, blocks.saturating_sub(1))) {
        (_, Ok(Ok(table))) => {
            // The kernel reads the first table alone, and has none of these.
            let bytes = |lba: u64| i64::try_from(lba.checked_mul(block)?).ok();
            let make = |p: &Partition| {
                let (start, end) = (bytes(p.first_lba)?, bytes(p.last_lba.checked_add(1)?)?);
                crate::sys::add_partition(&file, i32::try_from(p.number).ok()?, start, end - start).ok()
            };
            let made = table.partitions.iter().filter(|p| device(disk, p).is_none()).filter_map(make).count();
            if made > 0 {
                crate::console::say(&format!("{disk}: the partition table is broken, its copy at the end of the disk is used"));
            }
            Ok(table)
        }
        (Ok(Err(broken)), _) => Err(broken.to_string()),
        (_, other) => Err(other.err().map_or_else(|| "unreadable".into(), |e| e.to_string())),
    }
}

/// The table whose header is at that block.
fn read(file: &File, block_bytes: u64, blocks: u64, at: u64) -> io::Result<Result<Table, Broken>> {
    let mut head = vec![0; usize::try_from(block_bytes).unwrap_or(512)];
    file.read_exact_at(&mut head, at.saturating_mul(block_bytes))?;
    let header = match Header::read(&head, at) {
        Ok(header) => header,
        Err(broken) => return Ok(Err(broken)),
    };
    let mut entries = vec![0; usize::try_from(header.bytes()).unwrap_or(0)];
    file.read_exact_at(&mut entries, header.entries_lba.saturating_mul(block_bytes))?;
    let partitions = header.partitions(&entries);
    Ok(partitions.map(|partitions| Table { block_bytes, blocks, at, header, partitions, head, entries }))
}

/// Bytes of a disk's block, and how many it has.
fn geometry(disk: &str) -> (u64, u64) {
    let dir = Path::new(SYS).join(disk);
    let block = number(&dir.join("queue/logical_block_size")).filter(|b| (512..=65536).contains(b)).unwrap_or(512);
    (block, number(&dir.join("size")).unwrap_or(0) * 512 / block)
}

/// The kernel's device for a partition: by number, and it must begin where the table says.
fn device(disk: &str, partition: &Partition) -> Option<Block> {
    let (block, _) = geometry(disk);
    let entries = fs::read_dir(PathBuf::from("/sys/block").join(disk)).ok()?.flatten();
    let mut mine = entries.filter(|e| number(&e.path().join("partition")) == Some(u64::from(partition.number)));
    let dir = mine.next()?;
    let starts = number(&dir.path().join("start")) == partition.first_lba.checked_mul(block / 512);
    let name = dir.file_name().into_string().ok()?;
    (starts && Path::new("/dev").join(&name).exists()).then(|| Block { name, disk: disk.to_owned() })
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}
