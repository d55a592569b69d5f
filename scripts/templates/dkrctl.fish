# fish completion for dkrctl(1); @HEAD@

# The options of a verb that take a value.
function __dkrctl_valued
    switch $argv[1]
@VALUED@
    end
end

# Goes over the words before the cursor: prints the verb, and how many words stand after it.
function __dkrctl_state
    set -l valued @GLOBAL_VALUED@
    set -l tokens (commandline -opc)
    set -l verb
    set -l count 0
    set -l pending 0
    set -l ended 0
    set -l before
    for token in $tokens[2..-1]
        if test $pending = 1
            set pending 0
        else if test $ended = 1; or not string match -qr -- '^-.' $token
            if test -z "$verb"
                set verb $token
                set valued (__dkrctl_valued $verb)
                set ended 0
            else if test $count = 0; and test "$before" = "$verb"; and contains -- "$verb $token" @TWO@
                set verb "$verb $token"
                set valued (__dkrctl_valued $verb)
            else
                set count (math $count + 1)
                contains -- $verb @UNMIXED@; and set ended 1
            end
        else if test $token = --
            set ended 1
        else if string match -q -- '--*' $token
            contains -- $token $valued; and set pending 1
        else
            contains -- -(string sub -s -1 -- $token) $valued; and set pending 1
        end
        set before $token
    end
    echo "$verb"
    echo $count
    echo $ended
end

function __dkrctl_no_verb
    set -l state (__dkrctl_state)
    test -z "$state[1]"
end

# Whether the verb is $argv[1] and its options may stand here.
function __dkrctl_options
    set -l state (__dkrctl_state)
    test "$state[1]" = $argv[1]; and test $state[3] = 0
end

# Whether the verb is $argv[1], with $argv[2] words behind it where that is given.
function __dkrctl_words
    set -l state (__dkrctl_state)
    test "$state[1]" = $argv[1]; or return 1
    set -q argv[2]; or return 0
    test $state[2] = $argv[2]
end

# Whether the verb is $argv[1], and nothing stands behind it.
function __dkrctl_behind
    __dkrctl_words $argv[1] 0; or return 1
    set -l tokens (commandline -opc)
    test "$tokens[-1]" = $argv[1]
end

# Whether the root is named by an option, so that the first word is the command.
function __dkrctl_rooted
    string match -qr -- '^--rootfs(=|$)' (commandline -opc)
end

# Names of containers, or ids of what is executed, but those that stand there already.
function __dkrctl_names
    set -l tokens (commandline -opc)
    command $tokens[1] __complete $argv[1] $tokens[2..-1] 2>/dev/null | while read -l line
        set -l parts (string split -m 1 \t -- $line)
        contains -- $parts[1] $tokens; or echo $line
    end
end

complete -c dkrctl -f
@LINES@
