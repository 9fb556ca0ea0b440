//! The local time of day, as a calendar.

/// A moment in local time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalTime {
    /// Year, of the common era.
    pub year: i32,
    /// Month, 1 to 12.
    pub month: u32,
    /// Day of the month, 1 to 31.
    pub day: u32,
    /// Hour, 0 to 23.
    pub hour: u32,
    /// Minute, 0 to 59.
    pub minute: u32,
    /// Second, 0 to 60.
    pub second: u32,
}

impl LocalTime {
    /// Days since the first of January.
    pub fn yearday(&self) -> u32 {
        const BEFORE: [u32; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
        let leap = self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0);
        let month = self.month.clamp(1, 12) as usize;
        BEFORE[month - 1] + self.day.saturating_sub(1) + u32::from(leap && month > 2)
    }

    /// Day of the week; 0 is Sunday.
    pub fn weekday(&self) -> u32 {
        let before = i64::from(self.year) - 1;
        let days = before * 365 + before.div_euclid(4) - before.div_euclid(100) + before.div_euclid(400);
        // The first of January of year 1 was a Monday.
        u32::try_from((days + i64::from(self.yearday()) + 1).rem_euclid(7)).unwrap_or(0)
    }
}

/// The local time now; `None` if the system does not tell.
pub fn local_now() -> Option<LocalTime> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?;
    // `time_t`, whose width is the system's affair.
    let seconds = since.as_secs().try_into().ok()?;
    // SAFETY: an all-zero `tm` is a valid value of that plain C struct.
    let mut tm: libc::tm = unsafe { std::mem::zeroed() };
    #[cfg(unix)]
    // SAFETY: both pointers are to live locals; the result is the second one or null.
    let ok = !unsafe { libc::localtime_r(&raw const seconds, &raw mut tm) }.is_null();
    #[cfg(windows)]
    // SAFETY: both pointers are to live locals.
    let ok = unsafe { libc::localtime_s(&raw mut tm, &raw const seconds) } == 0;
    let part = |n: libc::c_int| u32::try_from(n).ok();
    if !ok {
        return None;
    }
    Some(LocalTime {
        year: tm.tm_year.checked_add(1900)?,
        month: part(tm.tm_mon.checked_add(1)?)?,
        day: part(tm.tm_mday)?,
        hour: part(tm.tm_hour)?,
        minute: part(tm.tm_min)?,
        second: part(tm.tm_sec)?,
    })
}
