package spec

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func TestParseDestination(t *testing.T) {
	name := func(name, protocol string, port uint16) Destination {
		return Destination{Name: name, Protocol: protocol, Port: port}
	}
	prefix := func(prefix, protocol string, port uint16) Destination {
		return Destination{Prefix: netip.MustParsePrefix(prefix), Protocol: protocol, Port: port}
	}
	label := strings.Repeat("a", 63)
	longest := label + "." + label + "." + label + "." + label[:61]
	for text, want := range map[string]Destination{
		"gitlab.example.com:443":     name("gitlab.example.com", "tcp", 443),
		"GitLab.Example.com:443/tcp": name("gitlab.example.com", "tcp", 443),
		"dns:53/udp":                 name("dns", "udp", 53),
		"7zip.x-1.2a:65535":          name("7zip.x-1.2a", "tcp", 65535),
		"xn--bcher-kva.example:80":   name("xn--bcher-kva.example", "tcp", 80),
		"localhost.example.com:80":   name("localhost.example.com", "tcp", 80),
		longest + ":1":               name(longest, "tcp", 1),
		"10.0.0.5:22":                prefix("10.0.0.5/32", "tcp", 22),
		"10.0.0.5/32:22":             prefix("10.0.0.5/32", "tcp", 22),
		"10.0.0.0/24:5432":           prefix("10.0.0.0/24", "tcp", 5432),
		"169.254.169.254:80":         prefix("169.254.169.254/32", "tcp", 80),
		"[fd00::5]:53/udp":           prefix("fd00::5/128", "udp", 53),
		"[fd00::/8]:443":             prefix("fd00::/8", "tcp", 443),
	} {
		if got, err := ParseDestination(text); err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", text, got, err, want)
		}
	}
}

func TestDestinationProblems(t *testing.T) {
	const noPort = `has no port after its host: use HOST:PORT or HOST:PORT/udp, such as "gitlab.example.com:443" or "[fd00::/8]:53/udp"`
	const colons = `has more than one colon: put an IPv6 address in brackets, as in [fd00::5]:443`
	const noAddress = `has no IP address in its brackets or before its slash: use one, as in 10.0.0.0/24, [fd00::5] or [fd00::/8]`
	const noHost = `has neither a host name nor an IP address: use letters, digits, inner hyphens and single dots, 253 bytes at most, for a name`
	const wildcard = `has a wildcard, for which DNS has no addresses: name each host`
	const localhost = `a container has a localhost of its own: use another of the host's addresses`
	const multicast = `multicast does not leave a container: use the address of one host`
	const unspecified = `it stands for any address: use that of one host`
	const narrower = `use narrower prefixes, public addresses need none`
	label := strings.Repeat("a", 63)

	for text, want := range map[string]string{
		"":                           noPort,
		"gitlab.example.com":         noPort,
		"10.0.0.0/24":                noPort,
		"[fd00::5]":                  noPort,
		"[fd00::]/8:443":             noPort,
		"[fd00::5:443":               noPort,
		"https://gitlab.example.com": `is a URL: leave out https://, and use HOST:PORT`,
		"ssh://git@h:22":             `is a URL: leave out ssh://, and use HOST:PORT`,
		"h:":                         `has the port "": use 1 to 65535`,
		"h:0":                        `has the port "0": use 1 to 65535`,
		"h:65536":                    `has the port "65536": use 1 to 65535`,
		"h:+1":                       `has the port "+1": use 1 to 65535`,
		"h:ssh":                      `has the port "ssh": use 1 to 65535`,
		"h:80-90":                    `has the port "80-90": use 1 to 65535`,
		"h:80/":                      `has the protocol "": use tcp, udp, or nothing for tcp`,
		"h:80/UDP":                   `has the protocol "UDP": use tcp, udp, or nothing for tcp`,
		"h:80/sctp":                  `has the protocol "sctp": use tcp, udp, or nothing for tcp`,

		":443":               noHost,
		" h:443":             noHost,
		"h.:443":             noHost,
		"a..b:443":           noHost,
		"-a:443":             noHost,
		"a-.b:443":           noHost,
		"a_b:443":            noHost,
		"git@h:22":           noHost,
		"bücher.example:443": noHost,
		"\u212a:443":         noHost, // the Kelvin sign, a k in lower case
		"10.0.0.256:22":      noHost,
		"10.1:22":            noHost,
		"0X7f000001:22":      noHost,
		"127.0x1:22":         noHost,
		label + "a:22":       noHost,
		strings.Repeat(label+".", 3) + label[:62] + ":22": noHost,
		"*.example.com:443": wildcard,
		"*:443":             wildcard,

		"fd00::5:443":          colons,
		"fd00::/8:443":         colons,
		"h:22:33":              colons,
		"[10.0.0.5]:22":        `has brackets around an IPv4 address: leave them out`,
		"[h]:22":               noAddress,
		"[]:22":                noAddress,
		"h/24:22":              noAddress,
		"10.0.0/24:22":         noAddress,
		"10.0.0.0/33:22":       `has no length from 0 to 32 after its slash: use one, as in 10.0.0.0/24 or [fd00::/8]`,
		"10.0.0.0/:22":         `has no length from 0 to 32 after its slash: use one, as in 10.0.0.0/24 or [fd00::/8]`,
		"[fd00::/129]:22":      `has no length from 0 to 128 after its slash: use one, as in 10.0.0.0/24 or [fd00::/8]`,
		"10.0.0.5/24:22":       `has bits beyond its prefix's length: use 10.0.0.0/24`,
		"[fd00::5/8]:22":       `has bits beyond its prefix's length: use fd00::/8`,
		"[fe80::1%eth0]:22":    `has a zone, which is an interface of one machine: leave out %eth0`,
		"[fe80::%eth0/64]:22":  `has a zone, which is an interface of one machine: leave out %eth0`,
		"[::ffff:10.0.0.5]:22": `is IPv4 in the form of IPv6: use IPv4's own, as in 10.0.0.5`,

		"localhost:80":      `is loopback: ` + localhost,
		"db.LOCALHOST:80":   `is loopback: ` + localhost,
		"127.0.0.1:80":      `is in 127.0.0.0/8: ` + localhost,
		"127.1.0.0/16:80":   `is in 127.0.0.0/8: ` + localhost,
		"[::1]:80":          `is in ::1/128: ` + localhost,
		"0.0.0.0:80":        `is in 0.0.0.0/8: ` + unspecified,
		"[::]:80":           `is in ::/128: ` + unspecified,
		"224.0.0.251:53":    `is in 224.0.0.0/4: ` + multicast,
		"[ff02::/16]:53":    `is in ff00::/8: ` + multicast,
		"0.0.0.0/0:80":      `takes in 127.0.0.0/8: ` + narrower,
		"192.0.0.0/2:80":    `takes in 224.0.0.0/4: ` + narrower,
		"[::/0]:80":         `takes in ::1/128: ` + narrower,
		"[fe00::/7]:80/udp": `takes in ff00::/8: ` + narrower,
	} {
		want = `"` + text + `" ` + want
		if got, err := ParseDestination(text); err == nil || err.Error() != want || got != (Destination{}) {
			t.Errorf("got  %+v, %v\nwant %s", got, err, want)
		}
	}
}

func TestDestinations(t *testing.T) {
	s := Default()
	if got := s.Destinations(); got != nil {
		t.Errorf("got %+v by default", got)
	}
	s.Allow = []string{"h:53/udp", "10.0.0.5:22"}
	want := []Destination{
		{Name: "h", Protocol: "udp", Port: 53},
		{Prefix: netip.MustParsePrefix("10.0.0.5/32"), Protocol: "tcp", Port: 22},
	}
	if got := s.Destinations(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
