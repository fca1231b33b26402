// Command compose loads a compose file as Docker Compose does (interpolation, validation,
// normalisation) and prints what each service runs and waits for, as one JSON object.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

// service is what the tests look at; the whole model is far larger.
type service struct {
	Image       string                   `json:"image"`
	Build       bool                     `json:"build"`
	Entrypoint  types.ShellCommand       `json:"entrypoint"`
	Command     types.ShellCommand       `json:"command"`
	Environment types.MappingWithEquals  `json:"environment"`
	HealthCheck *types.HealthCheckConfig `json:"healthcheck"`
	DependsOn   types.DependsOnConfig    `json:"depends_on"`
	User        string                   `json:"user"`
	ReadOnly    bool                     `json:"read_only"`
	Restart     string                   `json:"restart"`
}

func run(path string) error {
	ctx := context.Background()
	options, err := cli.NewProjectOptions(
		[]string{path},
		cli.WithName("oplog-relay"),
		cli.WithNormalization(true),
		cli.WithConsistency(true),
		cli.WithInterpolation(true),
		cli.WithResolvedPaths(true),
		cli.WithProfiles([]string{"*"}),
	)
	if err != nil {
		return err
	}
	project, err := options.LoadProject(ctx)
	if err != nil {
		return err
	}

	services := make(map[string]service, len(project.Services))
	for name, s := range project.Services {
		services[name] = service{
			Image:       s.Image,
			Build:       s.Build != nil,
			Entrypoint:  s.Entrypoint,
			Command:     s.Command,
			Environment: s.Environment,
			HealthCheck: s.HealthCheck,
			DependsOn:   s.DependsOn,
			User:        s.User,
			ReadOnly:    s.ReadOnly,
			Restart:     s.Restart,
		}
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", "  ")
	return encoder.Encode(services)
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: compose <docker-compose.yml>")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
