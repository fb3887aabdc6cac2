//! The `maskmill` command: parses arguments, runs one command, prints, and sets the exit code.
//!
//! Exit codes: 0 all done; 1 finished, but not everything succeeded; 2 bad usage or configuration, where
//! nothing was started; 130 interrupted, to be run again.

mod args;
mod eval;
mod export;
mod failure;
mod housekeeping;
mod inspect;
mod interrupt;
mod job_files;
mod plan;
mod predict;
mod progress;
mod run;
mod status;
mod train;
mod training_words;
mod view;

use std::process::ExitCode;

use clap::Parser;
use maskmill_pipeline::describe;

use crate::args::{Arguments, Command, ModelsCommand};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Plan(arguments) => plan::plan(&arguments),
        Command::Status(arguments) => status::status(&arguments),
        Command::Verify(arguments) => export::verify(&arguments),
        Command::Finalize(arguments) => housekeeping::finalize(&arguments),
        Command::Gc(arguments) => housekeeping::gc(&arguments),
        Command::View(arguments) => view::view(&arguments),
        Command::Export(arguments) => export::export(&arguments),
        Command::Predict(arguments) => predict::predict(&arguments),
        Command::Train(arguments) => train::train(&arguments),
        Command::Eval(arguments) => eval::eval(&arguments),
        Command::Models(ModelsCommand::Inspect(arguments)) => inspect::inspect(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            job_files::last_words("error", &describe(failure.error.as_ref()));
            ExitCode::from(failure.code)
        }
    }
}
