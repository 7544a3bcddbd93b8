//! A rate as a text, in the configuration and in annotations.

use vmm_api::{RateLimit, TokenBucket};

/// A burst that is not given is what comes in so many parts of a second.
const BURST_PART: u64 = 10;

/// The counters in a text: words between commas of which each is `COUNTER=RATE` or
/// `COUNTER=RATE/BURST`. `take` is given the counter and its value.
pub(crate) fn counters<'t>(
    text: &'t str,
    mut take: impl FnMut(&'t str, &'t str) -> Result<(), String>,
) -> Result<(), String> {
    for word in text.split(',').filter(|_| !text.is_empty()) {
        let (name, value) =
            word.split_once('=').ok_or_else(|| format!("{word:?} is not COUNTER=RATE"))?;
        take(name, value)?;
    }
    Ok(())
}

/// `RATE` or `RATE/BURST`.
pub(crate) fn bucket(text: &str, least_burst: u64) -> Result<TokenBucket, String> {
    let number = |text: &str| {
        let number = text.parse::<u64>().ok().filter(|number| *number > 0);
        number.ok_or_else(|| format!("{text:?} is no whole number of 1 or more"))
    };
    let (rate, burst) = match text.split_once('/') {
        Some((rate, burst)) => (number(rate)?, Some(number(burst)?)),
        None => (number(text)?, None),
    };
    let burst = burst.unwrap_or((rate / BURST_PART).max(least_burst));
    Ok(TokenBucket { burst, per_second: rate })
}

/// Puts the value of a counter, which is [`bucket`]'s, into its place.
pub(crate) fn put(
    place: &mut Option<TokenBucket>,
    (name, value): (&str, &str),
    least_burst: u64,
) -> Result<(), String> {
    match place.replace(bucket(value, least_burst)?) {
        None => Ok(()),
        Some(_) => Err(format!("it has {name:?} twice")),
    }
}

/// Of each counter the lower rate of two.
pub(crate) fn lower_limit(one: RateLimit, other: RateLimit) -> RateLimit {
    RateLimit {
        bytes: lower(one.bytes, other.bytes),
        operations: lower(one.operations, other.operations),
    }
}

/// The lower rate of two.
pub(crate) fn lower(one: Option<TokenBucket>, other: Option<TokenBucket>) -> Option<TokenBucket> {
    one.into_iter().chain(other).min_by_key(|bucket| bucket.per_second)
}
