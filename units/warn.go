package units

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"ephemeral-builder/image/command"
	"ephemeral-builder/image/spec"
)

// Warnings are what an administrator should know of a builder that was just installed.
// What can't be found out is one of them: the builder serves already.
func Warnings(ctx context.Context, s spec.Spec) []string {
	switch s.Network {
	case spec.NetworkHost:
		return []string{`jobs are on this host's network: they reach the services on its localhost, and each other; network = "private" in the spec keeps them apart`}
	case spec.NetworkNone:
		return nil
	}
	found, err := networkWarnings(ctx, s.Name)
	if err != nil {
		found = append(found, fmt.Sprintf("what jobs can reach was not found out: %v", err))
	}
	return found
}

// networkWarnings are those of a builder whose jobs have a way out.
func networkWarnings(ctx context.Context, name string) (found []string, err error) {
	resolv, err := os.ReadFile(filepath.Join(RunDir, name, "resolv.conf"))
	if err != nil {
		return nil, err
	}
	if !strings.Contains(string(resolv), "nameserver ") {
		found = append(found, "jobs can't look up names, as no DNS server of this host can be asked from elsewhere: set resolver in the spec")
	}
	chains, err := command.Output(ctx, command.Cmd{Args: []string{"nft", "--json", "list", "chains"}})
	if err != nil {
		return found, err
	}
	others, err := closedForwards(chains, name+"-slots")
	for _, other := range others {
		found = append(found, fmt.Sprintf("jobs have no way out, as table %s drops what it doesn't know: add to what makes it: %s", other.table, other.remedy()))
	}
	return found, err
}

// forward is somebody else's chain of rules for what the host forwards.
type forward struct{ table, chain string }

// closedForwards finds them in the output of "nft --json list chains", libnftables-json(5), if
// they drop what they don't know: what is to leave must pass the chains of all tables.
func closedForwards(listing []byte, own string) ([]forward, error) {
	var listed struct {
		Nftables []struct {
			Chain struct{ Family, Table, Name, Hook, Policy string }
		}
	}
	if err := json.Unmarshal(listing, &listed); err != nil {
		return nil, fmt.Errorf("reading the output of nft: %w", err)
	}
	chains := map[forward]bool{}
	for _, item := range listed.Nftables {
		chains[forward{item.Chain.Family + " " + item.Chain.Table, item.Chain.Name}] = true
	}
	var found []forward
	for _, item := range listed.Nftables {
		c := item.Chain
		f := forward{c.Family + " " + c.Table, c.Name}
		if c.Hook != "forward" || c.Table == own || c.Policy != "drop" && c.Table != firewalld {
			continue
		}
		if user := (forward{f.table, "DOCKER-USER"}); chains[user] {
			f = user // which Docker leaves to the administrator
		}
		found = append(found, f)
	}
	return found, nil
}

// firewalld is the name of its table. Its chain ends with a rule that rejects.
const firewalld = "firewalld"

// remedy is what lets jobs pass.
func (f forward) remedy() string {
	iptables := func(program string) string {
		return fmt.Sprintf("%s -I %s -i eb-+ -j ACCEPT && %[1]s -I %[2]s -o eb-+ -j ACCEPT", program, f.chain)
	}
	switch f.table {
	case "ip filter": // iptables(8) makes tables of these names
		return iptables("iptables")
	case "ip6 filter":
		return iptables("ip6tables")
	case "inet " + firewalld:
		return "firewall-cmd --permanent --zone=trusted --add-interface=eb-+ && firewall-cmd --reload"
	}
	return fmt.Sprintf(`nft insert rule %s %s iifname "eb-*" accept && nft insert rule %[1]s %[2]s oifname "eb-*" accept`, f.table, f.chain)
}
