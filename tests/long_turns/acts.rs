//! What happens in a try: acts, how they are made, and how one try is made of others.

use crate::world::Random;

/// Names of a request, described.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    pub(crate) shape: u8,
    pub(crate) from: u32,
    pub(crate) count: u32,
    /// More bytes in each.
    pub(crate) more: u16,
    /// All the same, backwards, or in order.
    pub(crate) order: u8,
}

#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) verb: u8,
    pub(crate) names: Vec<Names>,
    /// Of the members beside the names.
    pub(crate) extra: u8,
    pub(crate) number: u32,
}

#[derive(Clone, Debug)]
pub(crate) enum Outside {
    /// So many messages for each of these names.
    Publish(Names, u16, u32),
    /// What was asked is answered: confirmations and values of a bus, answers of services.
    Answers(u8),
    Away,
    Back,
    Gap,
}

#[derive(Clone, Debug)]
pub(crate) enum Act {
    Connect(u8, u16),
    /// The same so many times.
    Say(u8, Request, u16),
    /// A compressed message of so many KiB that bring nothing.
    EmptyBlocks(u8, u16),
    Ends(u8),
    Room(u8, u32),
    Outside(Outside),
    Turns(u8),
    Pass(u32),
    /// The rights of all clients are others.
    Table,
    /// An operator looks for names.
    Look,
}

/// A try: which settings, and what happens.
#[derive(Clone, Debug)]
pub(crate) struct Acts {
    pub(crate) kind: u64,
    pub(crate) acts: Vec<Act>,
}

impl Names {
    fn random(random: &mut Random, names_max: u64) -> Self {
        Self {
            shape: random.below(16) as u8,
            from: large(random, names_max) as u32,
            count: large(random, names_max) as u32,
            more: match random.below(4) {
                0 => large(random, 500) as u16,
                _ => 0,
            },
            order: random.below(6) as u8,
        }
    }

    /// The names, made by `shape` of a number.
    pub(crate) fn texts(&self, shape: impl Fn(u8, u32) -> String) -> Vec<String> {
        let more = "x".repeat(self.more.into());
        let numbers = 0..self.count;
        let number = |n: u32| match self.order {
            0 => self.from,
            1 => self.from + self.count - n,
            2 => self.from + n.wrapping_mul(7_919) % self.count.max(1),
            _ => self.from + n,
        };
        numbers
            .map(|n| shape(self.shape, number(n)) + &more)
            .collect()
    }
}

/// As often a small number as a large one.
fn large(random: &mut Random, most: u64) -> u64 {
    let bits = random.below(u64::from(most.max(1).ilog2()) + 1) + 1;
    random.below(1 << bits).min(most)
}

impl Request {
    /// The names, made by `shape` of a number: as many as a message of so many bytes has room for.
    pub(crate) fn texts(&self, shape: impl Fn(u8, u32) -> String, bytes_max: usize) -> Vec<String> {
        let mut bytes = 200;
        let names = self.names.iter().flat_map(|names| names.texts(&shape));
        names
            .take_while(|name| {
                let escaped = name.matches(['"', '\\']).count();
                bytes += name.len() + escaped + 3;
                bytes < bytes_max
            })
            .collect()
    }

    fn random(random: &mut Random, names_max: u64) -> Self {
        let parts = [1, 1, 1, 2, 3][random.below(5) as usize];
        Self {
            verb: random.below(16) as u8,
            names: (0..parts)
                .map(|_| Names::random(random, names_max))
                .collect(),
            extra: random.below(32) as u8,
            number: large(random, 10_000) as u32,
        }
    }
}

impl Act {
    pub(crate) fn random(random: &mut Random, names_max: u64) -> Self {
        match random.below(20) {
            0 => Self::Connect(random.below(32) as u8, large(random, 300) as u16),
            1..10 => {
                let client = large(random, 15) as u8;
                let request = Request::random(random, names_max);
                Self::Say(client, request, 1 + large(random, 300) as u16)
            }
            10 => Self::Ends(random.below(8) as u8),
            11 => Self::Room(random.below(8) as u8, large(random, 1 << 20) as u32),
            12..15 => {
                let names = Names::random(random, names_max);
                let messages = 1 + large(random, 30_000 / u64::from(names.count.max(1)));
                let bytes = large(random, 20_000) as u32;
                Self::Outside(Outside::Publish(names, messages as u16, bytes))
            }
            15 => Self::Outside(Outside::Answers(random.below(4) as u8)),
            16 => Self::Outside(match random.below(3) {
                0 => Outside::Away,
                1 => Outside::Back,
                _ => Outside::Gap,
            }),
            17 => match random.below(6) {
                0 => Self::Table,
                1 => Self::Look,
                _ => Self::Pass(large(random, 20_000_000) as u32),
            },
            _ => Self::Turns(random.below(255) as u8),
        }
    }

    /// Something about it is another.
    fn change(&mut self, random: &mut Random, names_max: u64) {
        match self {
            Self::Say(client, request, times) => match random.below(6) {
                0 => *client = large(random, 15) as u8,
                1 => *times = 1 + large(random, 300) as u16,
                2 => request.verb = random.below(16) as u8,
                3 => request.extra = random.below(32) as u8,
                4 => {
                    let at = random.below(request.names.len() as u64) as usize;
                    request.names[at].change(random, names_max);
                }
                _ => request.names.push(Names::random(random, names_max)),
            },
            Self::Outside(Outside::Publish(names, messages, bytes)) => match random.below(3) {
                0 => names.change(random, names_max),
                1 => *messages = 1 + large(random, 30_000 / u64::from(names.count.max(1))) as u16,
                _ => *bytes = large(random, 20_000) as u32,
            },
            other => *other = Self::random(random, names_max),
        }
    }
}

impl Names {
    fn change(&mut self, random: &mut Random, names_max: u64) {
        let other = Self::random(random, names_max);
        match random.below(6) {
            0 => self.shape = other.shape,
            1 => self.from = other.from,
            2 => self.count = other.count,
            3 => self.count = (self.count.saturating_mul(2)).min(names_max as u32),
            4 => self.more = other.more,
            _ => self.order = other.order,
        }
    }
}

impl Acts {
    pub(crate) fn random(random: &mut Random, names_max: u64) -> Self {
        let count = 2 + random.below(10);
        let mut acts = vec![Act::Connect(0, 2)];
        acts.extend((0..count).map(|_| Act::random(random, names_max)));
        Self {
            kind: random.below(32),
            acts,
        }
    }

    /// Another, made of this and one more.
    pub(crate) fn mutated(&self, other: &Self, random: &mut Random, names_max: u64) -> Self {
        let mut new = self.clone();
        for _ in 0..=random.below(3) {
            let at = random.below(new.acts.len() as u64 + 1) as usize;
            match random.below(12) {
                0 => new.kind = random.below(32),
                1 if new.acts.len() > 1 => drop(new.acts.remove(at.min(new.acts.len() - 1))),
                2..4 => new.acts.insert(at, Act::random(random, names_max)),
                4 => {
                    let from = random.below(other.acts.len() as u64) as usize;
                    new.acts.truncate(at);
                    new.acts.extend_from_slice(&other.acts[from..]);
                }
                5 if at < new.acts.len() => {
                    let same = new.acts[at].clone();
                    new.acts.push(same);
                }
                _ if at < new.acts.len() => new.acts[at].change(random, names_max),
                _ => {}
            }
        }
        new.acts.truncate(24);
        new
    }
}
