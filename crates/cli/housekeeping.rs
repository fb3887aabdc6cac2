//! `maskmill finalize` and `maskmill gc`.

use maskmill_job::format_bytes;

use crate::args::{GcArguments, OutputArguments};
use crate::failure::Failure;
use crate::job_files::open_output;

pub(crate) fn finalize(arguments: &OutputArguments) -> Result<(), Failure> {
    let output = open_output(arguments)?;
    let done = output.finalize().map_err(Failure::incomplete)?;
    println!(
        "{}/{} lists the parts of {} shards{}",
        output.location(),
        done.path,
        done.shards,
        match done.before {
            true => "; it was there already",
            false => "",
        }
    );
    Ok(())
}

pub(crate) fn gc(arguments: &GcArguments) -> Result<(), Failure> {
    let output = open_output(&arguments.output)?;
    let garbage = output.collect_garbage(arguments.older_than, arguments.delete)?;
    for path in &garbage.paths {
        println!("{path}");
    }
    let (count, bytes) = (garbage.paths.len(), format_bytes(garbage.bytes));
    match arguments.delete {
        true => println!(
            "{count} objects removed, {bytes}; {} unfinished files",
            garbage.staging
        ),
        false => println!("{count} objects could be removed, {bytes}; --delete does it"),
    }
    if garbage.young > 0 {
        println!("{} more are named by nothing and too young", garbage.young);
    }
    Ok(())
}
