"""Says which languages the sentence splitter knows, and finds the one that a language tag (BCP 47) names."""

import re

from bert_jax.errors import UserError

# ISO 639-1 codes with the codes of three letters that mean the same (ISO 639-2).
_CODES = """
aa=aar ab=abk ae=ave af=afr ak=aka am=amh an=arg ar=ara as=asm av=ava ay=aym az=aze ba=bak be=bel bg=bul bh=bih bi=bis
bm=bam bn=ben bo=bod=tib br=bre bs=bos ca=cat ce=che ch=cha co=cos cr=cre cs=ces=cze cu=chu cv=chv cy=cym=wel da=dan
de=deu=ger dv=div dz=dzo ee=ewe el=ell=gre en=eng eo=epo es=spa et=est eu=eus=baq fa=fas=per ff=ful fi=fin fj=fij
fo=fao fr=fra=fre fy=fry ga=gle gd=gla gl=glg gn=grn gu=guj gv=glv ha=hau he=heb hi=hin ho=hmo hr=hrv ht=hat hu=hun
hy=hye=arm hz=her ia=ina id=ind ie=ile ig=ibo ii=iii ik=ipk io=ido is=isl=ice it=ita iu=iku ja=jpn jv=jav ka=kat=geo
kg=kon ki=kik kj=kua kk=kaz kl=kal km=khm kn=kan ko=kor kr=kau ks=kas ku=kur kv=kom kw=cor ky=kir la=lat lb=ltz lg=lug
li=lim ln=lin lo=lao lt=lit lu=lub lv=lav mg=mlg mh=mah mi=mri=mao mk=mkd=mac ml=mal mn=mon mr=mar ms=msa=may mt=mlt
my=mya=bur na=nau nb=nob nd=nde ne=nep ng=ndo nl=nld=dut nn=nno no=nor nr=nbl nv=nav ny=nya oc=oci oj=oji om=orm or=ori
os=oss pa=pan pi=pli pl=pol ps=pus pt=por qu=que rm=roh rn=run ro=ron=rum ru=rus rw=kin sa=san sc=srd sd=snd se=sme
sg=sag si=sin sk=slk=slo sl=slv sm=smo sn=sna so=som sq=sqi=alb sr=srp ss=ssw st=sot su=sun sv=swe sw=swa ta=tam te=tel
tg=tgk th=tha ti=tir tk=tuk tl=tgl tn=tsn to=ton tr=tur ts=tso tt=tat tw=twi ty=tah ug=uig uk=ukr ur=urd uz=uzb ve=ven
vi=vie vo=vol wa=wln wo=wol xh=xho yi=yid yo=yor za=zha zh=zho=chi zu=zul
"""
# Languages within one that has a code of two letters (ISO 639-3), and codes that were replaced.
_WITHIN = """
ar=arb az=azj et=ekk fa=pes he=iw id=in lv=lvs mg=plt mn=khk ms=zsm ne=npi or=ory ro=mo sh=hbs sw=swh tl=fil uz=uzn
yi=ydd=ji zh=cmn
"""
# Languages without a code of two letters, whose rules the splitter takes from a language near to them, and some others.
_THREE_LETTERS = """
aae abs ace acm ady aeb aln als alt ami anp apc arn arq ary arz ast atj avk awa azb ban bar bbc bcc bci bdr bew bgn bho
bjn blk bpy bqi btm bug bxr ceb chr ckb crh csb din dsb dtp dty egl eml ext fon frc frp frr fur gag gan gcf gcr gld glk
gom gor gsw guc hak haw hif hke hmn hrx hsb hsn hyw iba ilo inh jam jut kaa kab kbd kbp kea kge khw kiu kjh kjp kmr koi
krc krl ksh ksw kum lad lbe lez lij liv ljp lki lld lmo lrc ltg lua luz lzh lzz mad mag mai mdf mhr min mni mnw mrj mui
mwl myv mzn nah nan nap nds new nia nqo nrm nso nyo olo pag pam pap pcd pdc pdt pfl pms pnb pnt pwn qug rgn rmy rsk rue
rup ruq sah sat scn sco sdc sdh ses sgs shi shn shy sjd skr sli sma smn srn sro stq sty szl szy tay tcy tet trv ttj tum
tyv udm vec vep vls vmf vmw vot vro war wls wuu xal xmf yue zea
"""
LANGUAGES = tuple(sorted({row.partition("=")[0] for row in _CODES.split()} | {"sh"} | set(_THREE_LETTERS.split())))
_SAME = {
    other: code for row in (_CODES + _WITHIN).split() for code, *others in [row.split("=")] for other in others
}  # fmt: skip
# Languages for which the splitter has rules (abbreviations, ends of sentences), with those that take theirs.
_RULES = """
am ar=acm=aeb=apc=arq=ary=arz bg bn=bpy ca=oc da=jut=kl
de=als=bar=dsb=frr=gsw=hrx=hsb=ksh=lb=nds=pdc=pdt=pfl=rm=sli=stq=vmf el=pnt en
es=an=arn=ast=ay=ext=gn=guc=lad=nah=qu=qug fi=krl=olo=smn=vot
fr=atj=avk=bci=bm=fon=frc=frp=gcf=gcr=hke=ht=kab=kbp=ln=lua=mg=pcd=ses=sg=shy=ty=wa=wls=wo gu hi=anp=awa=mag=mai=sa
hy=hyw it=aae=co=egl=eml=fur=lij=lld=lmo=nap=pms=rgn=scn=sdc=sro=vec ja kk=kaa kn=tcy ml mr my=blk=kjp=ksw=mnw
nl=li=srn=vls pa pl=csb=szl pt=gl=kea=mwl=tet=vmw
ru=ab=alt=av=ba=bxr=ce=cv=gld=inh=kjh=koi=krc=kum=kv=lbe=lez=mdf=mhr=mrj=myv=os=sah=sjd=sty=tt=tyv=udm=xal sk=cs ta te
uk=rue
"""
_TAKES = {code: row.split("=")[0] for row in _RULES.split() for code in row.split("=")}
_TAG = re.compile(r"([A-Za-z]{2,3})([-_][A-Za-z0-9]{1,8})*")


def find_language(tag: str) -> str:
    """Returns the language that a tag names, one of LANGUAGES: "de" for DE, de-AT, de_DE and deu, "zh" for zh-Hant.

    Raises:
      UserError: it names none of them.
    """
    match = _TAG.fullmatch(tag.strip())
    code = match[1].lower() if match else ""
    code = _SAME.get(code, code)
    if code not in LANGUAGES:
        raise UserError(
            f"--language={tag}: no language that the sentence splitter knows; expected a tag such as en, de-AT or "
            f"zh-Hant whose language is one of {', '.join(LANGUAGES)}"
        )
    return code


def rules_of(language: str) -> str:
    """Returns the language by whose rules the splitter finds the sentences of one of LANGUAGES.

    It has rules for some thirty; others take those of a related language, as sentencex's table of fallbacks says, and
    else English ones, which know the marks of every script but only English abbreviations.
    """
    return _TAKES.get(language, "en")
