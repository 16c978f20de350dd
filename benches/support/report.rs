//! What a program says: printed as it goes, and kept for `--save`.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use super::accounting::Cpu;
use super::fleet::Faults;
use super::options::Options;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

pub struct Report<'a> {
    options: &'a Options,
    text: String,
}

impl Report<'_> {
    /// Begins with what one must know to compare: machine, versions, command.
    pub fn begin(options: &Options) -> Report<'_> {
        let mut report = Report {
            options,
            text: String::new(),
        };
        let arguments: Vec<String> = std::env::args()
            .skip(1)
            .filter(|argument| argument != "--bench")
            .collect();
        report.line(&format!(
            "cargo bench --bench {} -- {}",
            options.program,
            arguments.join(" ")
        ));
        report.line(&format!("date     {} UTC", utc_now().1));
        report.line(&format!(
            "machine  {}, {} cores, Linux {}",
            cpu_model(),
            cores(),
            first_line("uname", &["-r"])
        ));
        report.line(&format!(
            "load     {}",
            fs::read_to_string("/proc/loadavg")
                .unwrap_or_default()
                .trim()
        ));
        report.line(&format!(
            "versions pushnode {} ({}); {}; {}",
            first_line("git", &["-C", ROOT, "describe", "--always", "--dirty"]),
            first_line(options.text("binary"), &["--version"]),
            first_line("rustc", &["--version"]),
            first_line("redis-server", &["--version"]),
        ));
        report.line("");
        report
    }

    pub fn line(&mut self, line: &str) {
        println!("{line}");
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    /// Writes the file if `--save` was given.
    pub fn end(self) -> io::Result<()> {
        if !self.options.flag("save") {
            return Ok(());
        }
        let folder = Path::new(ROOT).join("benches/runs").join(format!(
            "{}-{}",
            utc_now().0,
            machine_kind()
        ));
        fs::create_dir_all(&folder)?;
        let file = folder.join(format!("{}.txt", self.options.program));
        fs::write(&file, self.text)?;
        println!(
            "saved {}",
            file.strip_prefix(ROOT).unwrap_or(&file).display()
        );
        Ok(())
    }
}

/// `total (user + sys)` with two digits.
pub fn cpu(cpu: Cpu) -> String {
    format!("{:6.2} ({:5.2} + {:5.2})", cpu.total, cpu.user, cpu.system)
}

pub fn faults(faults: Faults) -> String {
    let Faults {
        missing,
        duplicate,
        reordered,
        misrouted,
        closed,
    } = faults;
    if faults == Faults::default() {
        return "exact".to_owned();
    }
    format!(
        "missing {missing} duplicate {duplicate} reordered {reordered} misrouted {misrouted} closed {closed}"
    )
}

fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}

fn cpu_model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or("unknown");
    line.trim_start_matches([' ', '\t', ':']).to_owned()
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(0, usize::from)
}

/// Such as `2cores-vm`: enough to see which runs may be compared.
fn machine_kind() -> String {
    let virtual_machine = fs::read_to_string("/proc/cpuinfo")
        .unwrap_or_default()
        .contains(" hypervisor");
    format!(
        "{}cores-{}",
        cores(),
        if virtual_machine { "vm" } else { "metal" }
    )
}

/// Date, and date with time.
fn utc_now() -> (String, String) {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    // Civil date from the day number, with years that begin in March so that a leap day is the last one.
    let days = seconds / 86_400 + 719_468;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = days / 146_097 * 400 + year_of_era + u64::from(month <= 2);
    let date = format!("{year}-{month:02}-{day:02}");
    let time = format!(
        "{date} {:02}:{:02}",
        seconds / 3_600 % 24,
        seconds / 60 % 60
    );
    (date, time)
}
