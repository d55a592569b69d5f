# bash completion for dkrctl(1); @HEAD@

# The words up to the cursor in `words`, the last of which is `current`: as they were typed. Readline breaks them at the
# characters of COMP_WORDBREAKS, = and : among them.
_dkrctl_line() {
    local rest=$COMP_LINE word number apart
    words=()
    for ((number = 0; number <= COMP_CWORD; number++)); do
        word=${COMP_WORDS[number]}
        apart=${rest%%[![:space:]]*}
        rest=${rest#"$apart"}
        rest=${rest#"$word"}
        if ((number > 1)) && [[ -z $apart ]]; then
            words[${#words[@]} - 1]+=$word
        else
            words+=("$word")
        fi
    done
    current=${words[${#words[@]} - 1]}
}

# Offers, of the arguments behind the first, those that begin with the first, which is what is typed of them; one that ends in =
# is to be gone on with.
_dkrctl_offer() {
    local typed=$1 word whole broken=
    shift
    # Where readline has broken the word, it wants what comes behind the break alone.
    [[ ${COMP_WORDS[COMP_CWORD]} == "$current" ]] || broken=${current%"${current##*[=:]}"}
    for word in "$@"; do
        if [[ $word == "$typed"* ]]; then
            whole=${current%"$typed"}$word
            COMPREPLY+=("${whole#"$broken"}")
            [[ $word == *= ]] && compopt -o nospace
        fi
    done
}

_dkrctl_names() {
    local name rest
    local -a found=()
    while IFS=$'\t' read -r name rest; do
        # A container that is named already is not meant twice.
        [[ " ${words[*]:1:${#words[@]}-2} " == *" $name "* ]] || found+=("$name")
    done < <(command "${words[0]}" __complete "$1" "${words[@]:1}" 2>/dev/null)
    _dkrctl_offer "$2" "${found[@]}"
}

# What there is for a kind of value ($1), of which $2 is typed.
_dkrctl_kind() {
    case $1 in
        @FILES@ | @DIRECTORIES@) compopt -o default ;;
        @SIGNALS@) _dkrctl_offer "$2" @SIGNAL_NAMES@ ;;
        @VARIABLES@) _dkrctl_offer "$2" $(compgen -e) ;;
        @LIVE@)
            # Where no option may follow words, the first is a container, and what follows another program's.
            if [[ -n $mixed ]] || ((place < 1)); then
                _dkrctl_names "$1" "$2"
            elif [[ $verb == @COMMANDED@ ]]; then
                compopt -o default
            fi
            ;;
        @EXECS@)
            if ((place > 0)); then
                _dkrctl_names @EXECS@ "$2"
            else
                _dkrctl_names @RUNNING@ "$2"
            fi
            ;;
        @VERBS@) _dkrctl_offer "$2" @COMMANDS@ ;;
        =*) ((place > 0)) || _dkrctl_offer "$2" ${1#=} ;;
        @RUN_WORDS@)
            # A path is a command in the default root, or what the command is to read. Behind --rootfs there is no other root.
            if ((place > 0)) || [[ -n $rooted || $2 == [/.~]* ]]; then
                compopt -o default
            else
                _dkrctl_offer "$2" @ROOTS@
            fi
            ;;
    esac
}

# The options of a verb ($1, empty: of dkrctl itself): those that stand alone, and those with a value.
_dkrctl_options() {
    case $1 in
@OPTIONS@
    esac
}

# The value of an option: $1 verb, $2 option, $3 what is typed of it.
_dkrctl_value() {
    case "$1 $2" in
@VALUES@
    esac
}

# What a verb ($1) takes besides options; whether options may follow it; the words that make another verb of it, right behind it.
_dkrctl_verb() {
    case $1 in
@VERB_WORDS@
        *) kind='' mixed='' seconds='' ;;
    esac
}

_dkrctl() {
    local -a words=()
    local current verb='' flags valued kind mixed seconds='' place=-1 number word pending='' ended='' rooted=''
    COMPREPLY=()
    _dkrctl_line
    _dkrctl_options ''
    kind=verbs mixed=''
    for ((number = 1; number < ${#words[@]} - 1; number++)); do
        word=${words[number]}
        if [[ -n $pending ]]; then
            pending=''
        elif [[ -n $ended || $word != -?* ]]; then
            if [[ -z $verb ]]; then
                verb=$word
                _dkrctl_options "$verb"
                _dkrctl_verb "$verb"
                place=0
                ended=''
                continue
            elif [[ $place == 0 && ${words[number - 1]} == "$verb" && " $seconds " == *" $word "* ]]; then
                verb+=" $word"
                _dkrctl_options "$verb"
                _dkrctl_verb "$verb"
                continue
            fi
            place=$((place + 1))
            [[ -n $mixed ]] || ended=1
        elif [[ $word == -- ]]; then
            ended=1
        elif [[ $word == --* ]]; then
            [[ $word == --rootfs || $word == --rootfs=* ]] && rooted=1
            [[ $word != *=* && " $valued " == *" $word "* ]] && pending=$word
        else
            # Letters combine; the last may take the next word.
            [[ " $valued " == *" -${word: -1} "* ]] && pending=-${word: -1}
        fi
    done
    if [[ -n $pending ]]; then
        _dkrctl_value "$verb" "$pending" "$current"
    elif [[ -z $ended && $current == --*=* ]]; then
        _dkrctl_value "$verb" "${current%%=*}" "${current#*=}"
    elif [[ -z $ended && $current == -* ]]; then
        _dkrctl_offer "$current" $flags $valued
    else
        [[ $place == 0 && ${words[${#words[@]} - 2]} == "$verb" ]] && _dkrctl_offer "$current" $seconds
        _dkrctl_kind "$kind" "$current"
    fi
}

complete -F _dkrctl dkrctl
