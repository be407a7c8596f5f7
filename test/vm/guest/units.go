package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/coreos/go-systemd/v22/dbus"
)

// unitReaches waits until a unit's ActiveState is one of states. systemd itself
// says when something changed: to ask it again and again would take the time of
// the system under test.
func unitReaches(ctx context.Context, unit string, states []string) (state string, err error) {
	conn, err := dbus.NewSystemdConnectionContext(ctx)
	if err != nil {
		return "", fmt.Errorf("systemd: %w", err)
	}
	defer conn.Close()
	changes, lost := make(chan *dbus.PropertiesUpdate, 1024), make(chan error, 1)
	conn.SetPropertiesSubscriber(changes, lost)
	for {
		p, err := conn.GetUnitPropertyContext(ctx, unit, "ActiveState")
		if err != nil {
			return state, fmt.Errorf("systemd: %w", err)
		}
		if state, _ = p.Value.Value().(string); slices.Contains(states, state) {
			return state, nil
		}
		for change := (*dbus.PropertiesUpdate)(nil); change == nil || change.UnitName != unit; {
			select {
			case change = <-changes:
			case <-lost:
				change = &dbus.PropertiesUpdate{UnitName: unit}
			case <-ctx.Done():
				return state, nil
			}
		}
	}
}
