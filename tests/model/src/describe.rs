//! Steps in words.

use crate::world::{Action, World};

impl World {
    /// A step, for people.
    pub fn describe(&self, action: &Action) -> String {
        let name = |at: &usize| self.names[*at].to_string();
        let task = |id: &u32| {
            let order = self.orders.get(*id);
            format!("{}: {:?}", order.move_id, order.task)
        };
        match action {
            Action::Joins(at) => format!("{} joins", name(at)),
            Action::Crashes(at) => format!("{} crashes", name(at)),
            Action::IsLost(at) => format!("the machine of {} is lost", name(at)),
            Action::StartsAndRegisters(at) => format!("{} starts and registers", name(at)),
            Action::StartsFromDisk(at) => format!("{} starts on what its disk says", name(at)),
            Action::Closes(at) => format!("{} closes to leave", name(at)),
            Action::Leaves(at) => format!("{} leaves", name(at)),
            Action::IsSaidDead(at) => format!("{} is said to be dead", name(at)),
            Action::Learns(at, revision) => format!("{} reads the placement of revision {revision}", name(at)),
            Action::Admits(at) => format!("{} admits a request", name(at)),
            Action::Ends(at, true) => format!("a request at {} writes and ends", name(at)),
            Action::Ends(at, false) => format!("a request at {} ends", name(at)),
            Action::OrphanEnds(at, true) => format!("what a crash of {} left in the app writes and ends", name(at)),
            Action::OrphanEnds(at, false) => format!("what a crash of {} left in the app ends", name(at)),
            Action::Fences(at, order) => format!("{} fences, {}", name(at), task(order)),
            Action::Acknowledges(at, order) => format!("{} says it is fenced and drained, {}", name(at), task(order)),
            Action::FencesData(at, order) => format!("{} fences the data, {}", name(at), task(order)),
            Action::Reaches(at, order) => format!("{} reaches, {}", name(at), task(order)),
            Action::Drops(at, order) => format!("{} drops, {}", name(at), task(order)),
            Action::Looks => "replica 1 looks at the store".to_owned(),
            Action::Plans(replica, target) => format!("replica {replica} plans a move to {}", self.cells[*target].name),
            Action::Hears(replica, fact) => format!("replica {replica} hears {:?}", self.facts.get(*fact)),
            Action::HearsReports(replica) => format!("replica {replica} hears all reports of both sides"),
            Action::TakesBack(replica) => format!("replica {replica} takes the move back"),
            Action::Tricks(what) => (*what).to_owned(),
        }
    }
}
