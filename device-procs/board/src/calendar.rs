//! Conversion between seconds since 1970 and the civil calendar (proleptic Gregorian, UTC).
//!
//! The one idea: count days from 1 March, so that the leap day is the last of its year and month lengths are a formula.

/// Seconds in a day.
pub const DAY: i64 = 86_400;

/// A date and time of day. Month and day count from 1; `weekday` from 1 for Sunday, as the RTC does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Civil {
    /// Year, such as 2025.
    pub year: i64,
    /// 1 to 12.
    pub month: i64,
    /// 1 to 31.
    pub day: i64,
    /// 0 to 23.
    pub hour: i64,
    /// 0 to 59.
    pub minute: i64,
    /// 0 to 59.
    pub second: i64,
    /// 1 (Sunday) to 7. Ignored by [`Civil::to_seconds`].
    pub weekday: i64,
}

/// Days from 1970-01-01 to 1 March of year `year`.
fn days_to_march(year: i64) -> i64 {
    // 1 March 1970 is day 59; leap days up to the February before that March belong to `year`.
    let leaps = |year: i64| year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    (year - 1970) * 365 + leaps(year) - leaps(1970) + 59
}

/// Days from 1 March to the first of the month that is `months` later (0 to 11): 31, 30, 31, 30, 31 repeating.
fn days_to_month(months: i64) -> i64 {
    (153 * months + 2) / 5
}

impl Civil {
    /// The civil time of `seconds` since 1970-01-01 00:00:00.
    pub fn from_seconds(seconds: i64) -> Self {
        let days = seconds.div_euclid(DAY);
        let of_day = seconds.rem_euclid(DAY);
        // 400 years have 146,097 days; the estimate is at most one year off, in either direction.
        let mut year = 1970 + ((days - 59) * 400).div_euclid(146_097);
        if days_to_march(year) > days {
            year -= 1;
        } else if days_to_march(year + 1) <= days {
            year += 1;
        }
        let of_year = days - days_to_march(year);
        let months = (0..12).rev().find(|months| days_to_month(*months) <= of_year).unwrap_or(0);
        // January and February belong to the next calendar year.
        let (year, month) = if months < 10 { (year, months + 3) } else { (year + 1, months - 9) };
        Self {
            year,
            month,
            day: of_year - days_to_month(months) + 1,
            hour: of_day / 3600,
            minute: of_day / 60 % 60,
            second: of_day % 60,
            // 1970-01-01 was a Thursday.
            weekday: (days + 4).rem_euclid(7) + 1,
        }
    }

    /// Seconds since 1970-01-01 00:00:00. Fields out of range carry over, except that the month is limited to 1 to 12.
    pub fn to_seconds(self) -> i64 {
        let month = self.month.clamp(1, 12);
        let (year, months) = if month >= 3 { (self.year, month - 3) } else { (self.year - 1, month + 9) };
        let days = days_to_march(year) + days_to_month(months) + self.day - 1;
        days * DAY + self.hour * 3600 + self.minute * 60 + self.second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates() {
        for (seconds, year, month, day, weekday) in [
            (0, 1970, 1, 1, 5),
            (951_782_400, 2000, 2, 29, 3),
            (951_868_800, 2000, 3, 1, 4),
            (1_735_689_599, 2024, 12, 31, 3),
            (4_107_542_400, 2100, 3, 1, 2),
            (-1, 1969, 12, 31, 4),
            (253_402_300_799, 9999, 12, 31, 6),
        ] {
            let civil = Civil::from_seconds(seconds);
            assert_eq!((civil.year, civil.month, civil.day, civil.weekday), (year, month, day, weekday), "{seconds}");
        }
        let civil = Civil::from_seconds(1_735_689_599);
        assert_eq!((civil.hour, civil.minute, civil.second), (23, 59, 59));
    }

    #[test]
    fn both_directions_agree_on_every_day_of_five_centuries() {
        let mut previous = Civil::from_seconds(-200 * 366 * DAY - DAY);
        for days in -200 * 366..300 * 366 {
            let civil = Civil::from_seconds(days * DAY + 12_345);
            assert_eq!(civil.to_seconds(), days * DAY + 12_345);
            let next_day = (civil.year, civil.month, civil.day) == (previous.year, previous.month, previous.day + 1);
            let next_month = civil.day == 1 && previous.day >= 28;
            assert!(next_day || next_month, "{previous:?} {civil:?}");
            previous = civil;
        }
    }

    #[test]
    fn wrong_fields_carry_over_without_a_panic() {
        let wrong = Civil { year: 9999, month: 165, day: 99, hour: 99, minute: 99, second: 99, weekday: 0 };
        assert!(wrong.to_seconds() > 0);
        assert!(Civil { month: 0, day: 0, ..wrong }.to_seconds() > 0);
    }
}
