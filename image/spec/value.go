package spec

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Size is a number of bytes, at most 2^63-1. Its text form is systemd's: plain bytes,
// or a whole number of K, M, G or T, each 1024 of the one before. Zero means "not set"
// and has the empty string as its text.
type Size uint64

const sizeUnits = "KMGT"

// String is the shortest exact form, such as "256M".
func (s Size) String() string {
	if s == 0 {
		return ""
	}
	unit := 0
	for ; unit < len(sizeUnits) && s%1024 == 0; unit++ {
		s /= 1024
	}
	return strconv.FormatUint(uint64(s), 10) + sizeUnits[:unit][max(unit-1, 0):]
}

// MarshalText is [Size.String].
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText accepts "268435456", "256M", and "" for "not set".
func (s *Size) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*s = 0
		return nil
	}
	shift := 10 * (1 + strings.IndexByte(sizeUnits, text[len(text)-1]))
	digits := text
	if shift > 0 {
		digits = text[:len(text)-1]
	}
	n, err := strconv.ParseUint(string(digits), 10, 63)
	if err != nil || n == 0 || n > math.MaxInt64>>shift {
		return fmt.Errorf(`%q: not a size above zero: use bytes, or K, M, G or T of 1024 each, such as "256M"`, text)
	}
	*s = Size(n << shift)
	return nil
}

// Percent is CPU time in per cent of one core: 25 is a quarter of a core, 200 is two.
// Its text form is "25%". Zero means "not set" and has the empty string as its text.
type Percent int

// String is the text form, such as "25%".
func (p Percent) String() string {
	if p == 0 {
		return ""
	}
	return strconv.Itoa(int(p)) + "%"
}

// MarshalText is [Percent.String].
func (p Percent) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText accepts "25%", and "" for "not set".
func (p *Percent) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*p = 0
		return nil
	}
	digits, found := strings.CutSuffix(string(text), "%")
	n, err := strconv.ParseUint(digits, 10, 31)
	if !found || err != nil || n == 0 {
		return fmt.Errorf(`%q: not a whole per cent of 1%% or more: use per cent of one core, such as "25%%"`, text)
	}
	*p = Percent(n)
	return nil
}

// Duration is a time of whole seconds, at least one. Its text form is what both Go and
// systemd.time(7) read, such as "90s" or "1h30m".
type Duration time.Duration

// String is the text form without the zero units of [time.Duration]: "2h", not "2h0m0s".
func (d Duration) String() string {
	text := time.Duration(d).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// Seconds is the number of them.
func (d Duration) Seconds() int { return int(time.Duration(d) / time.Second) }

// MarshalText is [Duration.String].
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText accepts what [time.ParseDuration] does, in whole seconds above zero:
// systemd.time(7) has no nanoseconds.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err != nil || !Duration(parsed).valid() {
		return fmt.Errorf(`%q: not a time of whole seconds above zero: use h, m and s, such as "90s" or "1h30m"`, text)
	}
	*d = Duration(parsed)
	return nil
}

func (d Duration) valid() bool { return d > 0 && time.Duration(d)%time.Second == 0 }
