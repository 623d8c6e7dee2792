package spec

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// Destination is what an item of Spec.Allow names: one port of a host or of a network.
type Destination struct {
	Name     string       // a DNS name in lower case, or empty
	Prefix   netip.Prefix // without a Name: masked, and of full length for one address
	Protocol string       // tcp or udp
	Port     uint16
}

var (
	// RFC 1123, 2.1. Both cases are spelled out, as (?i) knows more letters than DNS does.
	hostForm = regexp.MustCompile(`^` + hostLabel + `(\.` + hostLabel + `)*$`)
	// What ends like this is an address to inet_aton(3): 10.1 and 0x7f000001.
	numericForm = regexp.MustCompile(`(^|\.)([0-9]+|0x[0-9a-f]*)$`)
)

const (
	hostLabel = `[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?`
	hostMax   = 253

	ownLocalhost  = "a container has a localhost of its own: use another of the host's addresses"
	noMulticast   = "multicast does not leave a container: use the address of one host"
	noUnspecified = "it stands for any address: use that of one host"
)

// refused is where no packet from a container's own network can go.
var refused = []struct {
	netip.Prefix
	why string
}{
	{netip.MustParsePrefix("127.0.0.0/8"), ownLocalhost},
	{netip.MustParsePrefix("::1/128"), ownLocalhost},
	{netip.MustParsePrefix("0.0.0.0/8"), noUnspecified},
	{netip.MustParsePrefix("::/128"), noUnspecified},
	{netip.MustParsePrefix("224.0.0.0/4"), noMulticast},
	{netip.MustParsePrefix("ff00::/8"), noMulticast},
}

// Destinations are what a valid spec's Allow names, in its order.
func (s Spec) Destinations() []Destination {
	var all []Destination
	for _, text := range s.Allow {
		if d, err := ParseDestination(text); err == nil {
			all = append(all, d)
		}
	}
	return all
}

// ParseDestination reads HOST:PORT, HOST:PORT/tcp or HOST:PORT/udp, HOST being a DNS name,
// an IPv4 address, an IPv6 address in brackets or a prefix of either, such as 10.0.0.0/24
// or [fd00::/8].
func ParseDestination(text string) (Destination, error) {
	fail := func(format string, args ...any) (Destination, error) {
		return Destination{}, fmt.Errorf("%q %s", text, fmt.Sprintf(format, args...))
	}
	if scheme, _, ok := strings.Cut(text, "://"); ok {
		return fail("is a URL: leave out %s://, and use HOST:PORT", scheme)
	}
	inside, bracketed := strings.CutPrefix(text, "[")
	host, end, found := strings.Cut(inside, "]:")
	if !bracketed {
		colon := strings.LastIndexByte(text, ':')
		host, end, found = text[:max(colon, 0)], text[colon+1:], colon >= 0
	}
	if !found {
		return fail(`has no port after its host: use HOST:PORT or HOST:PORT/udp, such as "gitlab.example.com:443" or "[fd00::/8]:53/udp"`)
	}

	port, protocol, explicit := strings.Cut(end, "/")
	if !explicit {
		protocol = "tcp"
	}
	n, err := strconv.ParseUint(port, 10, 16)
	switch {
	case err != nil || n == 0:
		return fail("has the port %q: use 1 to 65535", port)
	case protocol != "tcp" && protocol != "udp":
		return fail("has the protocol %q: use tcp, udp, or nothing for tcp", protocol)
	}
	d := Destination{Protocol: protocol, Port: uint16(n)}

	address, _, isPrefix := strings.Cut(host, "/")
	addr, err := netip.ParseAddr(address)
	switch {
	case !bracketed && strings.Contains(host, ":"):
		return fail("has more than one colon: put an IPv6 address in brackets, as in [fd00::5]:443")
	case bracketed && err == nil && addr.Is4():
		return fail("has brackets around an IPv4 address: leave them out")
	case err != nil && (bracketed || isPrefix):
		return fail("has no IP address in its brackets or before its slash: use one, as in 10.0.0.0/24, [fd00::5] or [fd00::/8]")
	case err != nil:
		if problem := hostProblem(host); problem != "" {
			return fail("%s", problem)
		}
		d.Name = strings.ToLower(host)
		return d, nil
	}
	if problem := formProblem(addr); problem != "" {
		return fail("%s", problem)
	}
	d.Prefix = netip.PrefixFrom(addr, addr.BitLen())
	if isPrefix {
		if d.Prefix, err = netip.ParsePrefix(host); err != nil {
			return fail("has no length from 0 to %d after its slash: use one, as in 10.0.0.0/24 or [fd00::/8]", addr.BitLen())
		}
	}
	if masked := d.Prefix.Masked(); masked != d.Prefix {
		return fail("has bits beyond its prefix's length: use %s", masked)
	}
	if problem := rangeProblem(d.Prefix); problem != "" {
		return fail("%s", problem)
	}
	return d, nil
}

// hostProblem says why no DNS server has an answer for name, or is "".
func hostProblem(name string) string {
	lower := strings.ToLower(name)
	switch {
	case strings.Contains(name, "*"):
		return "has a wildcard, for which DNS has no addresses: name each host"
	case lower == "localhost", strings.HasSuffix(lower, ".localhost"): // RFC 6761, 6.3
		return "is loopback: " + ownLocalhost
	case len(name) > hostMax || !hostForm.MatchString(name) || numericForm.MatchString(lower):
		return fmt.Sprintf("has neither a host name nor an IP address: use letters, digits, inner hyphens and single dots, %d bytes at most, for a name", hostMax)
	default:
		return ""
	}
}

// addrProblem says why a container can't reach addr, or is "".
func addrProblem(addr netip.Addr) string {
	return cmp.Or(formProblem(addr), rangeProblem(netip.PrefixFrom(addr, addr.BitLen())))
}

func formProblem(addr netip.Addr) string {
	switch {
	case addr.Zone() != "":
		return fmt.Sprintf("has a zone, which is an interface of one machine: leave out %%%s", addr.Zone())
	case addr.Is4In6():
		return fmt.Sprintf("is IPv4 in the form of IPv6: use IPv4's own, as in %s", addr.Unmap())
	default:
		return ""
	}
}

func rangeProblem(p netip.Prefix) string {
	for _, r := range refused {
		switch {
		case !p.Overlaps(r.Prefix):
		case p.Bits() < r.Bits():
			return fmt.Sprintf("takes in %s: use narrower prefixes, public addresses need none", r.Prefix)
		default:
			return fmt.Sprintf("is in %s: %s", r.Prefix, r.why)
		}
	}
	return ""
}
