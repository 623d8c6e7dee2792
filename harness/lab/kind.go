package lab

import "fmt"

// ParseKind reads the name of a kind.
func ParseKind(name string) (Kind, error) {
	switch kind := Kind(name); kind {
	case VM, Container:
		return kind, nil
	}
	return "", fmt.Errorf("lab kind %q is unknown: choose %q or %q", name, VM, Container)
}
