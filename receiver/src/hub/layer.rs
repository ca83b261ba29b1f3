//! The second repair layers of renditions: what is known of their need, and what their flows are told.

use super::{Entry, Hub, State};
use crate::hub::recover::Wanted;
use mahp_common::catalog::Rendition;
use mahp_common::repair::layer::{LayerControl, Seen};
use mahp_common::session::recv::{BlockLack, Lack, Reception};
use mahp_common::{ObjectKind, ObjectMeta, Time, Toi};
use std::time::Duration;

/// An object whose first symbol came this soon after the first packet of all may have begun before the join.
const JOINING: Duration = Duration::from_secs(1);

/// The control of a rendition that has a second layer.
pub(super) fn control(rendition: &Rendition) -> Option<LayerControl> {
    rendition.flow.repair_layer_2.map(|_| LayerControl::new(rendition.flow.repair_percent))
}

impl Hub {
    /// What the stream brought of an object did not do.
    pub fn fell_short(&self, wanted: &Wanted) {
        let now = self.clock.now();
        let mut state = self.state();
        if wanted.meta.kind == ObjectKind::Media
            && let Some(entry) = state.renditions.get_mut(&wanted.rendition)
        {
            entry.fell_short(now, &wanted.lack);
        }
    }
}

impl State {
    /// A second has passed.
    pub(super) fn tick_layers(&mut self, now: Time) {
        for entry in self.renditions.values_mut() {
            entry.change_layer(|layer| layer.tick(now));
        }
    }
}

impl Entry {
    /// An object is complete.
    pub(super) fn note_layer(&mut self, now: Time, (toi, meta): (Toi, &ObjectMeta), how: &Reception) {
        if meta.kind != ObjectKind::Media || !how.heard_from_start {
            return;
        }
        let lost = how.source_symbols.saturating_sub(how.source_received);
        let seen = Seen { toi, symbols: how.source_symbols, lost, short: how.fetched > 0 };
        self.change_layer(|layer| layer.object(now, seen));
    }

    fn fell_short(&mut self, now: Time, lack: &Lack) {
        let joined = self.first_packet.or(self.joined_at).unwrap_or(now);
        if lack.first_symbol.is_none_or(|at| at < joined + JOINING) {
            return;
        }
        // Of blocks that are solved it is not known any more, so the share is that of those that are not.
        let sum = |of: fn(&BlockLack) -> u32| -> u64 { lack.blocks.iter().map(|b| u64::from(of(b))).sum() };
        let symbols = sum(|b| b.symbols);
        let lost = symbols.saturating_sub(sum(|b| b.held.saturating_sub(b.repair_held)));
        let seen = Seen { toi: lack.toi, symbols, lost, short: true };
        self.change_layer(|layer| layer.object(now, seen));
    }

    /// The flow has joined anew.
    pub(super) fn reset_layer(&mut self, now: Time) {
        if let Some(layer) = &mut self.layer {
            layer.reset(now);
        }
    }

    /// Repair symbols per hundred source symbols, of the layers that are joined.
    pub(super) fn repair_percent(&self) -> u32 {
        let flow = &self.rendition.flow;
        let second = flow.repair_layer_2.filter(|_| self.is_in_layer_2()).map_or(0, |layer| layer.percent);
        flow.repair_percent.saturating_add(second)
    }

    /// Whether the second layer is joined.
    pub(super) fn is_in_layer_2(&self) -> bool {
        self.flow.as_ref().is_some_and(|flow| flow.layer_2().is_joined())
    }

    fn change_layer(&mut self, change: impl FnOnce(&mut LayerControl)) {
        let Some((layer, flow)) = self.layer.as_mut().zip(self.flow.as_ref()) else { return };
        let before = layer.is_wanted();
        change(layer);
        let wanted = layer.is_wanted();
        if wanted != before {
            flow.layer_2().want(wanted);
        }
    }
}
