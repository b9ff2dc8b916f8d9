//! Standard output, which may be closed before all is said: `transhume report --all | head`.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, StdoutLock, Write};

use crate::failure::Kind;

/// `print!` that ends the program quietly where nobody reads any more.
macro_rules! out {
    ($($argument:tt)*) => {
        $crate::out::write(format_args!($($argument)*))
    };
}

/// `println!` that does so.
macro_rules! outln {
    ($($argument:tt)*) => {
        $crate::out::write(format_args!("{}\n", format_args!($($argument)*)))
    };
}

/// Says it, or ends the program: what was to be said is lost to whoever asked.
pub(crate) fn write(what: Arguments<'_>) {
    with(|out| out.write_fmt(what));
}

/// The same of bytes as they are.
pub(crate) fn bytes(what: &[u8]) {
    with(|out| out.write_all(what));
}

fn with(say: impl FnOnce(&mut StdoutLock<'_>) -> io::Result<()>) {
    let mut out = io::stdout().lock();
    if let Err(error) = say(&mut out).and_then(|()| out.flush()) {
        std::process::exit(end(&error) as i32);
    }
}

fn end(error: &io::Error) -> Kind {
    if error.kind() == ErrorKind::BrokenPipe {
        return Kind::Unread;
    }
    eprintln!("error: standard output cannot be written: {error}");
    Kind::Other
}
