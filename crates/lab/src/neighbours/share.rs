//! What a band has of the lab's links. Pure.

use transhume_bands::limits::LINK_USED_PERCENT;
use transhume_model::{Band, BandRates, BitRate};

use crate::division;
use crate::layout::Circuits;

/// What a band may take of a host's link of this speed; `None` where nothing divides it.
pub fn rates(circuits: Circuits, band: Band, link: BitRate) -> Option<BandRates> {
    match circuits {
        Circuits::Separate => Some(BandRates {
            guaranteed: link,
            ceiling: link,
        }),
        Circuits::Shared => {
            let whole = link.percent(LINK_USED_PERCENT);
            Some(BandRates {
                guaranteed: whole.percent(division::share(band)),
                ceiling: whole,
            })
        }
        Circuits::Undivided => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_link_is_divided_as_its_agent_divides_it() {
        let link = BitRate::from_bits_per_s(100_000_000).unwrap();
        let of = |circuits, band| {
            rates(circuits, band, link)
                .map(|rates| (rates.guaranteed.bits_per_s(), rates.ceiling.bits_per_s()))
        };
        assert_eq!(of(Circuits::Shared, Band::Ct), Some((38_800_000, 97_000_000)));
        assert_eq!(of(Circuits::Shared, Band::Nast), Some((19_400_000, 97_000_000)));
        assert_eq!(of(Circuits::Separate, Band::Ct), Some((100_000_000, 100_000_000)));
        assert_eq!(of(Circuits::Undivided, Band::Ct), None);
    }
}
