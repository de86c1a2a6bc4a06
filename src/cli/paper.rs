//! `completions` and `man`: what shells and manuals say of the command line, made from the command line itself.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_mangen::Man;

use super::{Arguments, outcome, print};

/// What no command says by itself.
const LAST_SECTIONS: &str = r#".SH "EXIT STATUS"
0: done. 1: not done, or not as it should be. 64: the command line is wrong. 69: the running proxy cannot be reached.
77: not allowed. 78: the config is wrong, or there is none.
.SH FILES
.I $XDG_CONFIG_HOME/countersign/countersign.toml
.br
.I /etc/countersign/countersign.toml
"#;

pub fn completions(shell: Shell) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "countersign", &mut script);
    print(&script);
    ExitCode::SUCCESS
}

/// One page with all commands on standard output, or a page for each command in a folder.
pub fn man(folder: Option<&Path>) -> ExitCode {
    let command = Arguments::command();
    outcome(match folder {
        Some(folder) => clap_mangen::generate_to(command, folder)
            .with_context(|| format!("cannot write pages into {}", folder.display())),
        None => page(command).map(|page| print(&page)).map_err(Into::into),
    })
}

fn page(mut command: clap::Command) -> std::io::Result<Vec<u8>> {
    command.build();
    let mut page = Vec::new();
    let man = Man::new(command.clone());
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    commands(&command, &mut page)?;
    page.extend_from_slice(LAST_SECTIONS.as_bytes());
    Ok(page)
}

/// A section for each command, with those below it after it.
fn commands(above: &clap::Command, page: &mut Vec<u8>) -> std::io::Result<()> {
    for command in above.get_subcommands().filter(|command| !command.is_hide_set()) {
        let man = Man::new(command.clone());
        let mut section = Vec::new();
        man.render_synopsis_section(&mut section)?;
        man.render_description_section(&mut section)?;
        man.render_options_section(&mut section)?;
        let section = String::from_utf8_lossy(&section).replace("\n.SH ", "\n.SS ");
        let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
        let below = section.strip_prefix(".SH ").map_or_else(|| section.clone(), |rest| format!(".SS {rest}"));
        page.extend_from_slice(format!(".SH \"{name}\"\n{below}").as_bytes());
        commands(command, page)?;
    }
    Ok(())
}
