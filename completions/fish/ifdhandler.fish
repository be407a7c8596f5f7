complete -c ifdhandler -s F -l foreground -d 'stay in the foreground'
complete -c ifdhandler -s i -l info -d 'list drivers, protocols and devices'
complete -c ifdhandler -s d -l debug -d 'log more'
complete -c ifdhandler -s s -l syslog -d 'log to syslog'
complete -c ifdhandler -s f -l config -r -F -d 'configuration file'
complete -c ifdhandler -l id -x -d 'serve the device only if it has this id'
complete -c ifdhandler -s h -l help -d 'print help'
complete -c ifdhandler -s v -l version -d 'print the version'
complete -c ifdhandler -n __fish_is_first_arg -x -a "(ifdhandler -i 2>/dev/null | sed -n '/^Reader/,/^Protocols/{/:\$/d;s/[ ,][ ,]*/\n/g;p}')" -d driver
