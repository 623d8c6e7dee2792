package status

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"ephemeral-builder/image/command"
)

// Find is the running container that job names: by its slot, the port of its client, its machine
// or its unit. An empty job is the only one there is.
func Find(ctx context.Context, name, job string) (Container, error) {
	builders, err := Read(ctx, name)
	if err != nil {
		return Container{}, err
	}
	var found, all []Container
	for _, b := range builders {
		for _, c := range b.Containers {
			all = append(all, c)
			if job == "" || c.Is(job) {
				found = append(found, c)
			}
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(all) == 0:
		return Container{}, fmt.Errorf("no container serves a connection")
	case len(found) == 0:
		return Container{}, fmt.Errorf("no container that serves is %s: see %s", job, command.Self("status"))
	}
	var names []string
	for _, c := range found {
		names = append(names, c.Machine)
	}
	return Container{}, fmt.Errorf("%d containers serve: name one with -job: %s", len(found), strings.Join(names, ", "))
}

// Is says whether job names the container.
func (c Container) Is(job string) bool {
	port := c.Client[strings.LastIndexAny(c.Client, ": ")+1:]
	return job == strconv.Itoa(c.Slot) || job == port || job == c.Machine || job == c.Unit || job+".service" == c.Unit
}
