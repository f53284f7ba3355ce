package main

import (
	"context"
	"io"
	"reflect"

	"github.com/dockbell/dockbell/trigger"
)

// rehearsable gives a kind of action the key `dryRun`, by which it is checked
// as ever and not done; always has all be so. A kind that rehearses by itself,
// and has the key, is told to.
func rehearsable(row trigger.Kind, always bool) trigger.Kind {
	build := row.Build
	row.Build = func(decode func(any) error) (trigger.Action, error) {
		dry := always
		a, err := build(func(spec any) error {
			own := reflect.ValueOf(spec).Elem().FieldByName("DryRun")
			if own.IsValid() {
				err := decode(spec)
				own.SetBool(own.Bool() || always)
				dry = false
				return err
			}
			both := withDryRun(reflect.ValueOf(spec).Elem())
			err := decode(both.Addr().Interface())
			reflect.ValueOf(spec).Elem().Set(both.Field(0))
			dry = dry || both.Field(1).Bool()
			return err
		})
		if dry && err == nil {
			a = notDone{a}
		}
		return a, err
	}
	return row
}

// withDryRun makes a specification that has one key more.
func withDryRun(spec reflect.Value) reflect.Value {
	both := reflect.New(reflect.StructOf([]reflect.StructField{
		{Name: "Spec", Type: spec.Type(), Tag: `yaml:",inline"`},
		{Name: "DryRun", Type: reflect.TypeFor[bool](), Tag: `yaml:"dryRun"`},
	})).Elem()
	both.Field(0).Set(spec)
	return both
}

type notDone struct{ trigger.Action }

func (notDone) Do(context.Context, trigger.Run, io.Writer) error {
	return trigger.Skip("not done: it is a rehearsal, in which nothing is called or run")
}
