//! An app's files: fetched and picked once, kept as a directory that is laid over the guests' root.
//!
//! ```text
//!  packages of the recipe ─▶ its files ─▶ libraries they need ─▶ ... in the packages that the owner
//!                                              ▲     │               of the file depends on
//!                                              └─────┘ until none is missing
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use transhume_guest::app::App;

use super::libraries::likeliest;
use super::recipe::{self, Compiled, Package, Recipe};
use crate::image::{debian, elf, file_error, list};
use crate::{LabError, Progress};

/// Kept over the life of a lab.
const CACHE: &str = "/var/cache/transhume/apps";
/// Raised when a recipe changes: what was kept for the one before is not taken.
const CACHE_VERSION: u32 = 1;
/// More for one app are a mistake.
const PACKAGES_MAX: usize = 64;
/// Where packages put their libraries, the guest's last.
const LIBRARY_DIRECTORIES: [&str; 5] = [
    "lib/x86_64-linux-gnu",
    "lib64",
    "usr/lib64",
    "usr/lib",
    "usr/lib/x86_64-linux-gnu",
];
const GUEST_LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
/// Where programs look for their loader, and what it is in the packages.
const LOADER: &str = "ld-linux-x86-64.so.2";

/// The directory with an app's files, made on first use.
pub async fn obtain(app: App, progress: &Progress) -> Result<PathBuf, LabError> {
    let cache = Path::new(CACHE);
    let kept = cache.join(format!("{app}-{CACHE_VERSION}"));
    if kept.exists() {
        return Ok(kept);
    }
    progress.step(&format!("fetching the packages of {app}"));
    let work = cache.join(format!("{app}.part-{}", std::process::id()));
    let picked = Fetch::new(app, &work).all().await;
    // Another lab may have been faster; its files are as good.
    let done = picked.and_then(|files| {
        fs::rename(files, &kept)
            .or_else(|error| if kept.exists() { Ok(()) } else { Err(error) })
            .map_err(file_error("keep the app in", &kept))
    });
    let _leftover = fs::remove_dir_all(&work);
    done.map(|()| kept)
}

/// Under way.
struct Fetch {
    app: App,
    recipe: &'static Recipe,
    work: PathBuf,
    /// What is picked.
    files: PathBuf,
    /// The packages that each unpacked one depends on.
    depends: BTreeMap<String, Vec<String>>,
    /// Packages that cannot be downloaded: names that only others provide.
    absent: BTreeSet<String>,
}

/// A file that is picked, and the package that it comes from.
struct Picked {
    package: String,
    path: PathBuf,
}

impl Fetch {
    fn new(app: App, work: &Path) -> Self {
        Fetch {
            app,
            recipe: recipe::of(app),
            work: work.to_owned(),
            files: work.join("files"),
            depends: BTreeMap::new(),
            absent: BTreeSet::new(),
        }
    }

    async fn all(mut self) -> Result<PathBuf, LabError> {
        for package in self.recipe.packages {
            let name = match package {
                Package::Named(name) => (*name).to_owned(),
                Package::Behind { meta, prefix } => debian::dependency(&debian::show(meta).await?, prefix)
                    .ok_or_else(|| LabError::NoPackage {
                        package: (*meta).to_owned(),
                        said: format!("apt knows none that depends on `{prefix}N`"),
                    })?,
            };
            self.unpack(&name).await?;
        }
        let mut programs = Vec::new();
        for pattern in self.recipe.files {
            self.pick(pattern, &mut programs)?;
        }
        if let Some(compiled) = &self.recipe.compiled {
            programs.push(self.compile(compiled)?);
        }
        self.add_libraries(programs).await?;
        let loader = self.files.join("usr/lib64");
        fs::create_dir_all(&loader).map_err(file_error("create", &loader))?;
        let link = loader.join(LOADER);
        symlink(format!("../lib/x86_64-linux-gnu/{LOADER}"), &link).map_err(file_error("link", &link))?;
        Ok(self.files)
    }

    fn root(&self, package: &str) -> PathBuf {
        self.work.join("unpacked").join(package)
    }

    async fn unpack(&mut self, package: &str) -> Result<(), LabError> {
        if self.depends.len() == PACKAGES_MAX {
            return Err(LabError::NoPackage {
                package: package.to_owned(),
                said: format!("{} needs more than {PACKAGES_MAX} packages", self.app),
            });
        }
        let deb = debian::unpack(package, &self.work, &self.root(package)).await?;
        let depends = debian::depends_of(&deb).await?;
        self.depends.insert(package.to_owned(), depends);
        Ok(())
    }

    /// Copies what a pattern means, from every package that has it.
    fn pick(&self, pattern: &str, programs: &mut Vec<Picked>) -> Result<(), LabError> {
        let mut found = false;
        for package in self.depends.keys() {
            let root = self.root(package);
            for path in matching(&root, pattern)? {
                found = true;
                self.copy(package, &root, &path, programs)?;
            }
        }
        match found {
            true => Ok(()),
            false => Err(self.missing(pattern)),
        }
    }

    /// Copies a file, or all of a directory; a link becomes what it leads to.
    fn copy(
        &self,
        package: &str,
        root: &Path,
        path: &Path,
        programs: &mut Vec<Picked>,
    ) -> Result<(), LabError> {
        if path.is_dir() {
            return list(path)?
                .iter()
                .try_for_each(|path| self.copy(package, root, path, programs));
        }
        let inside = path.strip_prefix(root).expect("it was found there");
        let Some((package, real)) = self.real(package, inside) else {
            return Ok(());
        };
        let to = self.files.join(inside);
        let parent = to.parent().expect("it lies in a directory");
        fs::create_dir_all(parent).map_err(file_error("create", parent))?;
        fs::copy(&real, &to).map_err(file_error("copy", &real))?;
        programs.push(Picked { package, path: to });
        Ok(())
    }

    /// The file that a path in a package means, and whose it is: a link may lead into another
    /// package. One that leads elsewhere is left out.
    fn real(&self, package: &str, inside: &Path) -> Option<(String, PathBuf)> {
        let own = self.root(package);
        if let Some(real) = within(&own, inside) {
            return Some((package.to_owned(), real));
        }
        let there = inside.parent()?.join(fs::read_link(own.join(inside)).ok()?);
        self.depends
            .keys()
            .find_map(|other| Some((other.clone(), within(&self.root(other), &there)?)))
    }

    fn compile(&self, compiled: &Compiled) -> Result<Picked, LabError> {
        let mut include = None;
        let mut library = None;
        for package in self.depends.keys() {
            let root = self.root(package);
            include = include.or(find(&root, compiled.header)?.map(|path| path.with_file_name("")));
            let found = library_in(&root, compiled.library).map(|path| (package.clone(), path));
            library = library.or(found);
        }
        let include = include.ok_or_else(|| self.missing(compiled.header))?;
        let (package, library) = library.ok_or_else(|| self.missing(compiled.library))?;
        let source = self.work.join("compiled.c");
        fs::write(&source, compiled.source).map_err(file_error("write", &source))?;
        let to = self.files.join(compiled.path);
        let output = Command::new("cc")
            .args(["-O2", "-o"])
            .args([&to, &source])
            .arg("-I")
            .arg(&include)
            .arg(&library)
            // Those of the library are found in the guest.
            .arg("-Wl,--unresolved-symbols=ignore-in-shared-libs")
            .output()
            .map_err(|source| LabError::Start {
                program: "cc".to_owned(),
                source,
            })?;
        debian::expect_success(&format!("cc {}", compiled.path), &output)?;
        Ok(Picked { package, path: to })
    }

    async fn add_libraries(&mut self, mut todo: Vec<Picked>) -> Result<(), LabError> {
        let mut there = BTreeSet::new();
        let to = self.files.join(GUEST_LIBRARIES);
        fs::create_dir_all(&to).map_err(file_error("create", &to))?;
        while let Some(program) = todo.pop() {
            let bytes = fs::read(&program.path).map_err(file_error("read", &program.path))?;
            for library in elf::needed(&bytes) {
                if !there.insert(library.clone()) {
                    continue;
                }
                let (package, from) = self.library(&program.package, &library).await?;
                let path = to.join(&library);
                fs::copy(&from, &path).map_err(file_error("copy", &from))?;
                todo.push(Picked { package, path });
            }
        }
        Ok(())
    }

    /// Finds a library in what is unpacked, else in what the package that needs it depends on.
    async fn library(&mut self, package: &str, library: &str) -> Result<(String, PathBuf), LabError> {
        for unpacked in self.depends.keys() {
            if let Some(path) = library_in(&self.root(unpacked), library) {
                return Ok((unpacked.clone(), path));
            }
        }
        let depends = self.depends.get(package).cloned().unwrap_or_default();
        let mut refused = None;
        for candidate in likeliest(library, &depends) {
            if self.depends.contains_key(candidate) || self.absent.contains(candidate) {
                continue;
            }
            if let Err(error) = self.unpack(candidate).await {
                self.absent.insert(candidate.to_owned());
                refused.get_or_insert(error);
                continue;
            }
            if let Some(path) = library_in(&self.root(candidate), library) {
                return Ok((candidate.to_owned(), path));
            }
        }
        Err(refused.unwrap_or_else(|| self.missing(library)))
    }

    fn missing(&self, file: &str) -> LabError {
        LabError::NoAppFile {
            app: self.app,
            file: file.to_owned(),
        }
    }
}

/// What lies below `root` at a path in which `*` stands for any one name.
fn matching(root: &Path, pattern: &str) -> Result<Vec<PathBuf>, LabError> {
    let mut found = vec![root.to_owned()];
    for part in pattern.split('/') {
        let mut next = Vec::new();
        for directory in found.iter().filter(|path| path.is_dir()) {
            match part {
                "*" => next.extend(list(directory)?),
                // A link counts, wherever it leads.
                name => {
                    next.extend(Some(directory.join(name)).filter(|path| path.symlink_metadata().is_ok()))
                }
            }
        }
        found = next;
    }
    Ok(found)
}

/// The first file of a name, wherever it is.
fn find(directory: &Path, name: &str) -> Result<Option<PathBuf>, LabError> {
    for path in list(directory)? {
        if path.is_dir() && !path.is_symlink() {
            if let Some(found) = find(&path, name)? {
                return Ok(Some(found));
            }
        } else if path.file_name().is_some_and(|there| there == name) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// The file that a path below `root` means, if that is below it, too.
fn within(root: &Path, inside: &Path) -> Option<PathBuf> {
    let real = root.join(inside).canonicalize().ok()?;
    real.starts_with(root).then_some(real)
}

fn library_in(root: &Path, library: &str) -> Option<PathBuf> {
    LIBRARY_DIRECTORIES
        .iter()
        .find_map(|directory| within(root, &Path::new(directory).join(library)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_one_name_and_links_that_lead_out_are_no_libraries() {
        let root = std::env::temp_dir().join(format!("transhume-apps-{}", std::process::id()));
        for directory in ["share/db/15/bin", "share/db/16/bin", "usr/lib"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        for file in ["share/db/15/bin/server", "share/db/bin", "usr/lib/liba.so.1.2"] {
            fs::write(root.join(file), "").unwrap();
        }
        symlink("liba.so.1.2", root.join("usr/lib/liba.so.1")).unwrap();
        symlink("/proc/self/exe", root.join("usr/lib/libb.so.1")).unwrap();
        let found = matching(&root, "share/db/*/bin/server").unwrap();
        assert_eq!(found, [root.join("share/db/15/bin/server")]);
        assert!(matching(&root, "share/*/17").unwrap().is_empty());
        assert_eq!(
            find(&root, "server").unwrap(),
            Some(root.join("share/db/15/bin/server"))
        );
        assert_eq!(
            library_in(&root, "liba.so.1"),
            Some(root.join("usr/lib/liba.so.1.2"))
        );
        assert_eq!(library_in(&root, "libb.so.1"), None);
        fs::remove_dir_all(&root).unwrap();
    }
}
