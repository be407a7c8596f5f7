complete -c openct-control -f
complete -c openct-control -s f -l config -r -F -d 'configuration file'
complete -c openct-control -s n -l no-coldplug -d 'leave alone what is plugged in'
complete -c openct-control -l reader -x -a "(sed -n 's/^ *reader  *\([^ {]*\).*/\1/p' /etc/openct.conf 2>/dev/null)" -d 'attach a reader of openct.conf'
complete -c openct-control -s s -l syslog -d 'log to syslog'
complete -c openct-control -s d -l debug -d 'log more'
complete -c openct-control -l json -d 'print JSON'
complete -c openct-control -s h -l help -d 'print help'
complete -c openct-control -s v -l version -d 'print the version'
set -l commands init attach watch status shutdown doctor check-config
complete -c openct-control -n "not __fish_seen_subcommand_from $commands" -a init -d 'start OpenCT'
complete -c openct-control -n "not __fish_seen_subcommand_from $commands" -a attach -d 'serve a device'
complete -c openct-control -n "not __fish_seen_subcommand_from $commands" -a watch -d 'serve what is plugged in, without systemd'
complete -c openct-control -n "not __fish_seen_subcommand_from $commands" -a status -d 'list the readers'
complete -c openct-control -n "not __fish_seen_subcommand_from $commands" -a shutdown -d 'end all handlers'
complete -c openct-control -n "not __fish_seen_subcommand_from $commands" -a doctor -d 'find what is wrong'
complete -c openct-control -n "not __fish_seen_subcommand_from $commands" -a check-config -d 'find the mistakes in openct.conf'
complete -c openct-control -n '__fish_seen_subcommand_from check-config' -F
complete -c openct-control -n '__fish_seen_subcommand_from attach' -a '(for f in /dev/bus/usb/*/*; echo $f; end)'
