//! The loop of the terminal: draws, reads keys, and takes the readings of the threads that ask.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};
use rustix::event::{PollFd, PollFlags, poll};

use super::readers::{Pace, Readers};
use super::screen;
use super::view::{Asked, View};
use crate::commands::tail::{Stop, TICK};

/// A screen without news is drawn again after this time: it shows ages.
const DRAW_EVERY: Duration = Duration::from_millis(500);

/// Shows the view until the user or a signal ends it. The terminal is as before afterwards, also
/// after a panic.
///
/// # Errors
/// There is no terminal, or it is gone.
pub(super) fn run(mut view: View, readers: &Readers) -> io::Result<()> {
    let stop = Stop::at_signals()?;
    end_with_terminal()?;
    // Restores the terminal at a panic too.
    let shown = match ratatui::try_init() {
        Ok(mut terminal) => show(&mut terminal, &mut view, readers, &stop),
        Err(error) => Err(error),
    };
    let restored = ratatui::try_restore();
    shown.and(restored)
}

/// Ends the process when the terminal is gone. crossterm would read a terminal that has ended again
/// and again without a pause, and not every such process gets a SIGHUP: one that `docker exec` has
/// started does not.
fn end_with_terminal() -> io::Result<()> {
    let wait = || {
        let terminal = io::stdout();
        // An end is reported whatever is asked for.
        let mut fds = [PollFd::new(&terminal, PollFlags::empty())];
        while let Err(rustix::io::Errno::INTR) = poll(&mut fds, None) {}
        // Not every system can wait for a terminal like that.
        let [terminal] = fds;
        if terminal
            .revents()
            .intersects(PollFlags::HUP | PollFlags::ERR)
        {
            std::process::exit(1);
        }
    };
    let named = thread::Builder::new().name("top-terminal".to_owned());
    named.spawn(wait).map(drop)
}

fn show(
    terminal: &mut DefaultTerminal,
    view: &mut View,
    readers: &Readers,
    stop: &Stop,
) -> io::Result<()> {
    let mut drawn: Option<Instant> = None;
    while !stop.is_asked() {
        if drawn.is_none_or(|at| at.elapsed() >= DRAW_EVERY) {
            let now_ms = readers.now_ms();
            terminal.draw(|frame| screen::draw(frame, view, now_ms))?;
            drawn = Some(Instant::now());
        }
        if event::poll(TICK)? {
            drawn = None;
            if let Event::Key(key) = event::read()? {
                match view.key(key) {
                    Asked::End => return Ok(()),
                    Asked::Pace => readers.pace(Pace::of(view)),
                    Asked::Nothing => {}
                }
            }
        }
        while let Some(reading) = readers.next(Duration::ZERO) {
            drawn = None;
            // What was asked before the pause is not shown in it.
            if !view.is_paused {
                view.take(reading.of, reading.at_ms, reading.read);
            }
        }
    }
    Ok(())
}
